"""Training on lesions of which some have one image, on a real Ray."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from _pytest.logging import LogCaptureFixture

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, Modality, PredictionKind, Split
from derm_ray.evaluation.evaluate import evaluate, finite_metrics
from derm_ray.evaluation.stored_predictions import read_predictions
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import build_network
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import labeled, load_batch, training_order
from derm_ray.training.config import TrainConfig, debug
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.modality_dropout import ModalityDropout
from derm_ray.training.run.driver import train
from tests.conftest import take

pytestmark = pytest.mark.ray

TRAIN, VAL = 48, 24
CONFIG = replace(debug(), size=32, precision="fp32", epochs=1, global_batch_size=16, modality_dropout=0.3)


def lacking(pairs: Manifest, *, dermoscopy_only: bool = False) -> Manifest:
    """Return train and val of which every sixth lesion has a clinical photo alone, and another sixth dermoscopy alone."""
    few = take(pairs, TRAIN + VAL).absolute().with_column("split", ["train"] * TRAIN + ["val"] * VAL)
    clinical, dermoscopy = few.column("clinical_uri"), few.column("dermoscopy_uri")
    if dermoscopy_only:
        return few.with_column("clinical_uri", [None] * len(few))
    dermoscopy[::6] = [None] * len(dermoscopy[::6])
    clinical[3::6] = [None] * len(clinical[3::6])
    return few.with_column("clinical_uri", clinical).with_column("dermoscopy_uri", dermoscopy)


def plain_losses(manifest: Manifest, config: TrainConfig) -> list[float]:
    """Train an epoch without Ray; return the loss of every step."""
    split = labeled(manifest, Split.TRAIN, PAPER15)
    torch.manual_seed(config.seed)
    network = build_network(config.architecture(), dropout=config.dropout)
    dropout, augmentation = ModalityDropout(config.modality_dropout, config.seed, 0), Augmentation(config.policy, 0, 0)
    order = training_order(len(split), config.global_batch_size, seed=config.seed, epoch=0)
    with ThreadPoolExecutor(2) as executor:
        shares = [dropout(split.share(rows)) for rows in order]
        batches = [load_batch(share, config.preprocessing, executor, augmentation) for share in shares]
    return TrainingLoop(config, network, torch.device("cpu")).train_epoch(0, batches, lambda *_: None, steps=len(order))


def test_two_workers_train_on_what_lesions_have_as_a_plain_loop_does(
    ray_local: None, pairs: Manifest, tmp_path: Path
) -> None:
    config, manifest = replace(CONFIG, freeze_batch_norm=True), lacking(pairs)
    result = train(config, manifest, str(tmp_path), "run", workers=2)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "step" in line] == pytest.approx(plain_losses(manifest, config), rel=1e-4)

    held = read_predictions(str(tmp_path / "run" / "val.parquet"))
    present = np.array([[pair.uri(m) is not None for m in Modality] for pair in manifest.select(Split.VAL).pairs()])
    absent = dict(zip(PredictionKind, (*~present.T, ~present.all(1)), strict=True))
    for kind, scores in held.scores.items():
        assert np.array_equal(np.isnan(scores).any(1), absent[kind])
        column = pq.read_table(tmp_path / "run" / "val.parquet")[f"{kind}_melanoma"]
        assert column.null_count == absent[kind].sum() > 0
    assert result.metrics == pytest.approx(finite_metrics(PAPER15, held.labels, held.scores))
    assert result.kind is PredictionKind.CROSS
    bundle = load_bundle(result.bundle_uri)
    assert set(bundle.calibration.temperatures) == set(PredictionKind)
    found = evaluate(Predictor(bundle, "torch"), manifest, Split.VAL, resamples=5)
    assert (found.lesions, {str(m): group.lesions for m, group in found.alone.items()}) == (
        16,
        {"clinical": 4, "dermoscopy": 4},
    )


@pytest.mark.slow
@pytest.mark.parametrize("network", ["triple", "sole"])
def test_a_manifest_of_dermoscopy_alone_trains_and_is_evaluated(
    ray_local: None, pairs: Manifest, tmp_path: Path, caplog: LogCaptureFixture, network: str
) -> None:
    """With two workers, whose gradients DDP could not average if a parameter had none."""
    manifest = lacking(pairs, dermoscopy_only=True)
    with caplog.at_level("WARNING", "derm_ray"):
        result = train(replace(CONFIG, network=network), manifest, str(tmp_path), "run", workers=2)
    assert caplog.text.count("train: no lesion has a clinical photo.") == 1
    assert caplog.text.count("The monitored metric is that of dermoscopy, which 24 of 24 pairs have.") == 1
    assert result.kind is PredictionKind.DERMOSCOPY
    assert {name.split("/")[0] for name in result.metrics} == {"dermoscopy"}
    bundle = load_bundle(result.bundle_uri)
    assert set(bundle.calibration.temperatures) == {PredictionKind.DERMOSCOPY}
    found = evaluate(Predictor(bundle, "torch"), manifest, Split.VAL, resamples=5)
    assert (found.pairs, found.alone[Modality.DERMOSCOPY].lesions) == (0, 24)
