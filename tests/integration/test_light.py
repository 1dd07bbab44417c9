"""The present-day recipe on a trunk of timm: workers, resumed runs and what is sealed, with everything on."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, PredictionKind, Split
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.inference.predictor import Predictor
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import labeled, load_batch, training_order
from derm_ray.training.config import light
from derm_ray.training.loop import TrainingLoop, sealed_weights
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
    logit_adjustment=0.5,
    label_smoothing=0.1,
    tta="flips",
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What stands in for a download: the whole network under timm's key names."""
    torch.manual_seed(0)
    uri = str(tmp_path_factory.mktemp("weights") / f"{NAME}.safetensors")
    save_file(timm.create_model(NAME).state_dict(), uri)
    return uri


def plain(manifest: Manifest, weights: str) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train without Ray; return the loss of every step, and the averaged weights."""
    split, losses = labeled(manifest, Split.TRAIN, PAPER15), list[float]()
    counts = torch.bincount(torch.from_numpy(split.labels), minlength=CONFIG.classes).numpy()
    loop = TrainingLoop(CONFIG, make_start(CONFIG, weights, None).network, torch.device("cpu"), counts)
    for epoch in range(CONFIG.epochs):
        order = training_order(len(split), CONFIG.global_batch_size, seed=CONFIG.seed, epoch=epoch)
        augmentation = Augmentation(CONFIG.policy, CONFIG.seed, epoch)
        with ThreadPoolExecutor(2) as executor:
            whole = [load_batch(split.share(rows), CONFIG.preprocessing, executor, augmentation) for rows in order]
        loop.train_epoch(epoch, whole, lambda _, loss, __: losses.append(loss), steps=len(order))
    return losses, sealed_weights(loop.state_dict())


def test_workers_compute_what_a_plain_loop_computes_and_seal_what_they_validate(
    ray_local: None, pairs: Manifest, tmp_path: Path, weights: str
) -> None:
    manifest = small(pairs)
    losses, expected = plain(manifest, weights)
    assert len(losses) == 10
    for workers in (1, 2):
        run = train(CONFIG, manifest, str(tmp_path), f"run{workers}", init_weights=weights, workers=workers)
        assert step_losses(run.run_uri) == pytest.approx(losses, rel=2e-4)
        assert run.best_epoch == 2
        bundle = load_bundle(run.bundle_uri)
        for key, value in bundle.weights.items():
            assert torch.allclose(value, expected[key], atol=1e-3), key
        assert (bundle.preprocessing.interpolation, bundle.passes) == ("bicubic", 4)
        found = evaluate(Predictor(bundle, "torch"), manifest, Split.VAL, resamples=10)
        for kind in PredictionKind:
            value = found.kinds[kind].metrics["accuracy"].value
            assert value == pytest.approx(run.metrics[f"{kind}/accuracy"])
