import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from derm_ray import storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.cli import app
from derm_ray.domain import PAPER15, Calibration, PredictionKind
from derm_ray.errors import ConfigError
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.out_of_fold import evaluate_out_of_fold
from derm_ray.evaluation.stored_predictions import (
    OUT_OF_FOLD,
    StoredPredictions,
    joined,
    read_predictions,
    write_predictions,
)
from derm_ray.inference.predictor import temper

PROVENANCE = {"grouping": "lesion", "members": ["a", "b", "c"], "manifest_digest": "m", "folds": 3}


def fold(seed: int, pairs: int = 120) -> StoredPredictions:
    """Return predictions of a network that is surer of itself the larger the seed."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 15, pairs)
    logits = (1 + seed) * (generator.normal(size=(3, pairs, 15)) + 1.5 * np.eye(15)[labels])
    powers = np.exp(logits - logits.max(2, keepdims=True))
    scores = dict(zip(PredictionKind, (powers / powers.sum(2, keepdims=True)).astype(np.float32), strict=True))
    names = tuple(f"{seed}-{index}" for index in range(pairs))
    return StoredPredictions(PAPER15, names, names, labels, np.zeros(pairs, np.int64), scores)


@pytest.fixture
def ensemble(bundle_uri: str) -> Bundle:
    plain = load_bundle(bundle_uri)
    return replace(plain, provenance=PROVENANCE, calibration=Calibration(decide="macro_f1"))


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    held = joined([fold(0), fold(1)])
    write_predictions(held, str(tmp_path / "p.parquet"))
    found = read_predictions(str(tmp_path / "p.parquet"))
    assert (found.label_set, found.pair_ids, found.lesion_ids) == (PAPER15, held.pair_ids, held.lesion_ids)
    assert found.folds.tolist() == [1] * 120 + [2] * 120
    assert np.array_equal(found.labels, held.labels)
    assert all(np.array_equal(found.scores[kind], held.scores[kind]) for kind in PredictionKind)
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match="not predictions of a training run"):
        read_predictions(str(tmp_path / "p.parquet"))


def test_nothing_of_a_fold_is_chosen_on_that_fold(ensemble: Bundle) -> None:
    parts = [fold(seed) for seed in range(3)]
    found = evaluate_out_of_fold(joined(parts), ensemble, resamples=5)
    kind = PredictionKind.CROSS
    named, sensitive, positives = [], [], []
    cancer = [PAPER15.class_names.index(name) for name in PAPER15.tasks()[0].positive]
    for index, part in enumerate(parts):
        others = joined([other for at, other in enumerate(parts) if at != index])
        fitted = fit_calibration(PAPER15, others.labels, others.scores, "macro_f1")
        probabilities = temper(part.scores[kind], fitted.temperatures[kind])
        named.append((probabilities * np.exp(fitted.offsets[kind])).argmax(1) == part.labels)
        point = next(point for point in fitted.operating_points if (point.kind, point.task) == (kind, "cancer"))
        positives.append(np.isin(part.labels, cancer))
        sensitive.append(probabilities[:, cancer].sum(1) >= point.threshold)
    assert found.kinds[kind].metrics["accuracy"].value == pytest.approx(np.concatenate(named).mean())
    expected = np.concatenate(sensitive)[np.concatenate(positives)].mean()
    assert found.kinds[kind].operating[0].sensitivity == pytest.approx(expected)
    assert (found.pairs, found.lesions, found.provenance["folds"]) == (360, 360, 3)
    assert found.provenance["calibrated_on"] == "the other folds"


def test_the_command_reads_a_run_and_refuses_what_does_not_apply(
    bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> str:
        return (
            CliRunner()
            .invoke(app, ["evaluate", "--out", str(tmp_path / "e"), *arguments], catch_exceptions=False)
            .stdout
        )

    folder = str(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"no out_of_fold\.parquet.*train --folds"):
        run("--out-of-fold", folder)
    with pytest.raises(ConfigError, match="Remove --model, --swap"):
        run("--out-of-fold", folder, "--model", bundle_uri, "--swap")
    with pytest.raises(ConfigError, match="give --model and --manifest, or --out-of-fold"):
        run("--model", bundle_uri)
    write_predictions(joined([fold(seed) for seed in range(3)]), storage.join(folder, OUT_OF_FOLD))
    plain = load_bundle(bundle_uri)
    monkeypatch.setattr("derm_ray.bundle.load_bundle", lambda uri: replace(plain, provenance=PROVENANCE))
    assert "360 pairs (360 lesions) of out-of-fold predictions of 3 folds" in run("--out-of-fold", folder)
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["split"] == "out-of-fold predictions"
    assert "Thresholds were chosen on the other folds" in (tmp_path / "e" / "report.html").read_text()
