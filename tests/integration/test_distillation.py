"""Distillation and tracking in one run on a real Ray."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from derm_ray.bundle import load_bundle, save_bundle
from derm_ray.data.loading import load_all
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing, pixels_from_bytes
from derm_ray.domain import PAPER15, Calibration, PredictionKind, Split
from derm_ray.errors import OutputExistsError
from derm_ray.evaluation.evaluate import compute_metrics, evaluate
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import NetworkConfig
from derm_ray.scoring.pipeline import score
from derm_ray.storage import read_bytes
from derm_ray.training.batches import labeled
from derm_ray.training.config import make_config
from derm_ray.training.run import driver
from derm_ray.training.run.driver import train
from derm_ray.training.run.teacher import learn_from
from tests.conftest import seal_untrained, take
from tests.inputs import MemoryInput

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def ensemble_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two networks that see four views of each image; temperatures so low that images count, and decision offsets."""
    folder = tmp_path_factory.mktemp("ensemble")
    config = NetworkConfig("triple", "tiny", "gap", 15)
    members = [load_bundle(seal_untrained(str(folder / str(n)), config, seed=n)).weights for n in range(2)]
    save_bundle(
        str(folder / "both"),
        network=config,
        label_set=PAPER15,
        preprocessing=Preprocessing(48),
        weights={f"{n}.{key}": value for n, weights in enumerate(members) for key, value in weights.items()},
        provenance={},
        calibration=Calibration(
            dict.fromkeys(PredictionKind, 0.05),
            decide="macro_f1",
            offsets=dict.fromkeys(PredictionKind, tuple(float(at == 6) for at in range(15))),
        ),
        members=2,
        tta="flips",
    )
    return str(folder / "both")


def test_an_ensemble_is_scored_in_bulk_as_it_is_evaluated(
    ray_local: None, pairs: Manifest, ensemble_uri: str, tmp_path: Path
) -> None:
    few = take(pairs, 30).absolute().with_column("split", ["test"] * 30)
    score(ensemble_uri, MemoryInput(few), str(tmp_path / "scores"), engine="torch", shard_size=10)
    predictor = Predictor(load_bundle(ensemble_uri), "torch")
    assert predictor.bundle.passes == 8
    frame = pd.read_parquet(tmp_path / "scores").set_index("pair_id").loc[few.column("pair_id")]
    bulk = frame[[f"p_{name}" for name in PAPER15.class_names]].to_numpy()
    chunks = load_all(few.pairs(), predictor.bundle.preprocessing, few.uri)
    predicted = [one for pixels in chunks for one in predictor.predict(pixels)]
    expected = np.array([one.per_input_predictions[PredictionKind.CROSS] for one in predicted])
    assert np.abs(bulk - expected).max() <= 1e-5
    assert np.abs(expected - expected.mean(0)).max() > 1e-2, "the images count"
    found = evaluate(predictor, few, Split.TEST, resamples=5).kinds[PredictionKind.CROSS].metrics
    truth = np.array([PAPER15.class_names.index(str(name)) for name in few.column("diagnosis")])
    assert compute_metrics(PAPER15, truth, bulk)["macro_auroc"] == pytest.approx(found["macro_auroc"].value, abs=1e-6)
    named = [PAPER15.class_names.index(name) for name in frame["diagnosis"]]
    assert float(np.mean(named == truth)) == pytest.approx(found["accuracy"].value)
    assert named != bulk.argmax(1).tolist()


@pytest.mark.filterwarnings("default")  # MLflow's own
def test_a_student_of_another_size_learns_from_an_ensemble_and_is_tracked(
    ray_local: None,
    pairs: Manifest,
    ensemble_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    manifest = take(pairs, 100).absolute().with_column("split", ["train"] * 80 + ["val"] * 20)
    config = make_config("debug", {"size": 32, "epochs": 1})
    store = f"sqlite:///{tmp_path}/mlflow.db"

    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("stopped")

    fit = driver._fit
    monkeypatch.setattr(driver, "_fit", fail)
    options = {"teacher": ensemble_uri, "track": f"mlflow:{store}"}
    with pytest.raises(RuntimeError, match="stopped"):
        train(config, manifest, "runs", "student", **options)  # type: ignore[arg-type]
    monkeypatch.setattr(driver, "_fit", fit)
    with pytest.raises(OutputExistsError, match="teacher was"):
        train(config, manifest, "runs", "student")

    kept = tmp_path / "runs" / "student" / "teacher.parquet"
    written = kept.stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "derm_ray"):
        result = train(config, manifest, "runs", "student", **options)  # type: ignore[arg-type]
    assert kept.stat().st_mtime_ns == written
    assert "the teacher's predictions" not in caplog.text

    teacher = load_bundle(ensemble_uri)
    assert load_bundle(result.bundle_uri).provenance["teacher"] == teacher.model_digest
    split = labeled(manifest, Split.TRAIN, PAPER15)
    table = pq.read_table(kept)
    assert table["pair_id"].to_pylist() == [pair.pair_id for pair in split.pairs]
    pair = split.pairs[7]
    assert pair.clinical_uri is not None
    assert pair.dermoscopy_uri is not None
    images = [read_bytes(uri) for uri in (pair.clinical_uri, pair.dermoscopy_uri)]
    (prediction,) = Predictor(teacher, "torch").predict([pixels_from_bytes(*images, teacher.preprocessing)])
    learned = learn_from(teacher, split, manifest, result.run_uri, use_gpu=False).teacher
    assert learned is not None
    expected = [prediction.per_input_predictions[kind] for kind in PredictionKind]
    np.testing.assert_allclose(learned[7], expected, atol=1e-5)

    client = MlflowClient(store, store)
    (run,) = client.search_runs([client.get_experiment_by_name("derm_ray").experiment_id])
    assert (run.info.status, run.data.tags["derm_ray.run_id"]) == ("FINISHED", result.run_id)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "step/loss")] == [1, 2, 3, 4, 5]
    assert run.data.metrics["best/cross/accuracy"] == result.metrics["cross/accuracy"]
    assert client.search_model_versions("name = 'derm_ray_paper15'")[0].run_id == run.info.run_id
