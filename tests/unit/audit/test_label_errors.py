from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from derm_ray.audit.label_errors import find_label_errors
from derm_ray.data.manifest import Manifest, normalize_schema
from derm_ray.domain import PAPER15, PredictionKind
from derm_ray.errors import ConfigError
from derm_ray.evaluation.stored_predictions import StoredPredictions, write_predictions

NAMES = PAPER15.class_names
USED = 4


@pytest.fixture
def truth() -> np.ndarray:  # type: ignore[type-arg]
    return np.arange(400) % USED


@pytest.fixture
def predictions(truth: np.ndarray, tmp_path: Path) -> str:  # type: ignore[type-arg]
    """Of a model that is right four times of five."""
    generator = np.random.default_rng(0)
    guess = np.where(generator.random(len(truth)) < 0.8, truth, generator.integers(0, USED, len(truth)))
    scores = generator.dirichlet(np.full(len(NAMES), 0.3), len(truth)) * 0.3
    scores[np.arange(len(truth)), guess] += 0.7
    ids = tuple(f"p{index}" for index in range(len(truth)))
    held = StoredPredictions(
        PAPER15,
        ids,
        ids,
        truth,
        np.ones(len(truth), np.int64),
        {kind: scores.astype(np.float32) for kind in PredictionKind},
    )
    uri = str(tmp_path / "out_of_fold.parquet")
    write_predictions(held, uri)
    return uri


def _manifest(labels: np.ndarray) -> Manifest:  # type: ignore[type-arg]
    rows = [
        {"pair_id": f"p{index}", "clinical_uri": f"{index}.jpg", "diagnosis": NAMES[label]}
        for index, label in enumerate(labels.tolist())
    ]
    return normalize_schema(pa.Table.from_pylist(rows), "/data/m.parquet")


def test_planted_errors_are_found_with_the_right_diagnosis(truth: np.ndarray, predictions: str) -> None:  # type: ignore[type-arg]
    wrong = np.random.default_rng(1).choice(len(truth), 30, replace=False)
    labels = truth.copy()
    labels[wrong] = (labels[wrong] + 1) % USED
    found = find_label_errors(_manifest(labels), predictions)
    assert found.checked == len(truth)
    hits = [error for error in found.errors if error.row in wrong]
    assert len(hits) >= 24
    assert sum(error.suggested == NAMES[truth[error.row]] for error in hits) >= 20
    assert all(error.given == NAMES[labels[error.row]] for error in found.errors)
    given = [error.given_probability for error in found.errors]
    assert given == sorted(given)


def test_predictions_of_other_pairs_or_none_are_refused(truth: np.ndarray, predictions: str) -> None:  # type: ignore[type-arg]
    manifest = _manifest(truth)
    other = manifest.with_column("pair_id", [f"q{index}" for index in range(len(truth))])
    with pytest.raises(ConfigError, match=r"has no pair of /data/m.parquet with a diagnosis of its label set, paper15"):
        find_label_errors(other, predictions)
    with pytest.raises(ConfigError, match=r"gone.parquet not found. Give out_of_fold.parquet"):
        find_label_errors(manifest, "/data/gone.parquet")
    one = find_label_errors(_manifest(np.zeros(len(truth), int)), predictions)
    assert (one.errors, one.checked) == ((), len(truth))


def test_a_file_of_something_else_does_not_end_in_advice_to_delete_its_folder(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    other.write_bytes(b"lesion_id")
    manifest = normalize_schema(pa.table({"lesion_id": ["L"], "clinical_uri": ["a.jpg"]}), "m.csv")
    with pytest.raises(ConfigError, match=r"holds no predictions of a run\. Give out_of_fold\.parquet") as caught:
        find_label_errors(manifest, str(other))
    assert "Delete" not in str(caught.value)
