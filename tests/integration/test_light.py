"""The present-day recipe on a trunk of timm: workers, resumed runs and what is sealed, with everything on."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.patient_columns import fit_encoder
from derm_ray.domain import PAPER15, PredictionKind, Split
from derm_ray.errors import DermRayError
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.inference.predictor import Predictor
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import labeled, load_batch, training_order
from derm_ray.training.config import light
from derm_ray.training.loop import TrainingLoop, sealed_weights
from derm_ray.training.patient_dropout import PatientDropout
from derm_ray.training.run import driver, worker
from derm_ray.training.run.driver import train
from derm_ray.training.start import make_start
from tests.integration.test_training import small, step_losses

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAME = "mobilenetv3_small_050"
CONFIG = replace(
    light(),
    trunk=f"timm/{NAME}",
    size=32,
    epochs=2,
    dropout=0.0,
    warmup_epochs=0.2,
    layer_decay=0.8,
    accumulation=2,
    class_weight_power=0.5,
    patient_data="age,sex,site",
    patient_dropout=0.3,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What stands in for a download: the whole network under timm's key names."""
    torch.manual_seed(0)
    uri = str(tmp_path_factory.mktemp("weights") / f"{NAME}.safetensors")
    save_file(timm.create_model(NAME).state_dict(), uri)
    return uri


Plain = tuple[list[float], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def plain(pairs: Manifest, weights: str) -> Plain:
    """Train without Ray; return the loss of every step, and the averaged weights."""
    manifest, losses = small(pairs), list[float]()
    encoder = fit_encoder(CONFIG.patient_fields, manifest, manifest.select(Split.TRAIN))
    split = labeled(manifest, Split.TRAIN, PAPER15, encoder)
    counts = split.class_counts
    loop = TrainingLoop(CONFIG, make_start(CONFIG, weights, None, encoder).network, torch.device("cpu"), counts)
    for epoch in range(CONFIG.epochs):
        order = training_order(len(split), CONFIG.global_batch_size, seed=CONFIG.seed, epoch=epoch)
        augmentation = Augmentation(CONFIG.policy, CONFIG.seed, epoch)
        dropout = PatientDropout(encoder, CONFIG.patient_dropout, CONFIG.seed, epoch)
        with ThreadPoolExecutor(2) as executor:
            whole = [
                load_batch(dropout(split.share(rows)), CONFIG.preprocessing, executor, augmentation) for rows in order
            ]
        loop.train_epoch(epoch, whole, lambda _, loss, __: losses.append(loss), steps=len(order))
    return losses, sealed_weights(loop.state_dict())


def die_once(flag: str, settings: dict[str, Any]) -> DermRayError | None:
    """Train, and die once where the second epoch begins."""

    def dropout(self: Any, epoch: int) -> PatientDropout | None:
        if epoch == 1 and not Path(flag).exists():
            Path(flag).touch()
            time.sleep(3)  # until Ray Train has taken the report of the first
            os._exit(1)
        return whole(self, epoch)

    whole = worker._Worker._dropout
    worker._Worker._dropout = dropout  # type: ignore[method-assign]
    return worker.train_worker(settings)


@pytest.mark.parametrize(("workers", "dies"), [(1, False), (2, False), (2, True)], ids=["one", "two", "resumed"])
def test_workers_compute_what_a_plain_loop_computes_and_seal_what_they_validate(
    ray_local: None,
    pairs: Manifest,
    tmp_path: Path,
    weights: str,
    plain: Plain,
    workers: int,
    dies: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (losses, expected), manifest, flag = plain, small(pairs), tmp_path / "flag"
    assert len(losses) == 10
    if dies:
        monkeypatch.setattr(driver, "train_worker", partial(die_once, str(flag)))
    run = train(CONFIG, manifest, str(tmp_path), "run", init_weights=weights, workers=workers)
    assert flag.exists() is dies
    assert step_losses(run.run_uri) == pytest.approx(losses, rel=2e-4)
    assert run.best_epoch == 2
    bundle = load_bundle(run.bundle_uri)
    for key, value in bundle.weights.items():
        assert torch.allclose(value, expected[key], atol=1e-3), key
    assert (bundle.preprocessing.interpolation, bundle.passes) == ("bicubic", 4)
    assert bundle.patient is not None
    found = evaluate(Predictor(bundle, "torch"), manifest, Split.VAL, resamples=10)
    for kind in PredictionKind:
        value = found.kinds[kind].metrics["accuracy"].value
        assert value == pytest.approx(run.metrics[f"{kind}/accuracy"])
