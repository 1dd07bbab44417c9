"""Bulk scoring on Ray Data, and the same probabilities wherever a pair is scored."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.patient_columns import patient_pairs
from derm_ray.domain import Modality, PredictionKind, Split
from derm_ray.errors import OutputExistsError, ScoringError
from derm_ray.evaluation.evaluate import _predict
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.pipeline import ScoringOptions, ScoringResult, score
from derm_ray.scoring.reconcile import verify
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.endpoint import endpoint
from derm_ray.storage import read_bytes
from tests.conftest import Served, TrainedRun, take
from tests.inputs import MemoryInput

pytestmark = pytest.mark.ray
ONE = ScoringOptions(replicas=1)


@pytest.fixture(scope="session")
def few(pairs: Manifest) -> Manifest:
    """30 pairs: one without a clinical image, and one whose clinical image is missing."""
    first = take(pairs, 30).absolute()
    return first.with_column("clinical_uri", [None, "/nowhere/x.jpg", *first.column("clinical_uri")[2:]])


@pytest.fixture(scope="session")
def again(ray_local: None, few: Manifest, served_model_uri: str) -> Callable[..., ScoringResult]:
    """Return what scores the pairs, in three parts."""
    return partial(
        score,
        served_model_uri,
        MemoryInput(few),
        engine="torch",
        shard_size=10,
        per_input_predictions=True,
        options=ONE,
    )


@pytest.fixture(scope="session")
def whole(again: Callable[..., ScoringResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = again(str(out))
    assert (result.counts.scored, result.counts.errors, result.resumed) == (29, 1, 0)
    return out


def assert_same(
    bundle_uri: str, pairs: Manifest, out: Path, url: str, bearer: dict[str, str], engine: str, tolerance: float
) -> None:
    """Compare probabilities in bulk and online with those of an evaluation, which computes in float32."""
    exact = Predictor(load_bundle(bundle_uri), "torch")
    known = patient_pairs(pairs, exact.bundle.patient)
    evaluated = _predict(exact, known, pairs.uri)[0][PredictionKind.CROSS]
    classes = exact.bundle.label_set.class_names
    frame = pd.read_parquet(out).set_index("pair_id").loc[pairs.column("pair_id")]
    bulk = frame[[f"p_{name}" for name in classes]].to_numpy()
    answers = [
        httpx.post(
            f"{url}/v1/score",
            files={str(modality): read_bytes(str(pair.uri(modality))) for modality in Modality},
            data={"patient": json.dumps(dict(pair.patient))} if pair.patient else {},
            headers=bearer,
            timeout=180,
        ).json()
        for pair in known
    ]
    online = np.array([[answer["probabilities"][name] for name in classes] for answer in answers])
    assert np.abs(bulk - evaluated).max() <= tolerance
    assert np.abs(online - evaluated).max() <= tolerance
    assert set(frame["engine"]) == {engine}
    assert {answer["model_digest"] for answer in answers} == set(frame["model_digest"]) == {exact.bundle.model_digest}


def test_evaluation_bulk_and_endpoint_give_the_same_probabilities(
    few: Manifest, whole: Path, served: Served, served_model_uri: str
) -> None:
    both = few.where([row > 1 for row in range(len(few))])
    assert_same(served_model_uri, both, whole, served.url, served.bearer, "torch", 1e-5)


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_probabilities(trained: TrainedRun, tmp_path: Path, free_port: int) -> None:
    few, engine = take(trained.manifest.select(Split.TEST), 24), "torch-bf16"
    options = ScoringOptions(replicas=2)
    score(trained.bundle_uri, MemoryInput(few), str(tmp_path), engine=engine, shard_size=10, options=options)
    with endpoint(ServeArguments(model=trained.bundle_uri, engine=engine), port=free_port) as served:
        assert_same(trained.bundle_uri, few, tmp_path, served.url, {}, engine, 2e-2)


def test_errors_are_rows(whole: Path) -> None:
    frame = pd.read_parquet(whole).set_index("pair_id")
    assert frame.loc["SYN_000000", "modality"] == "dermoscopy"
    assert np.isnan(frame.loc["SYN_000000", "cross_mel"])
    assert frame.loc["SYN_000001", "error_code"] == "missing"
    assert json.loads((whole / "_SUCCESS.json").read_text())["errors"] == 1


def test_a_part_that_cannot_be_written_stops_the_run_and_is_then_scored_alone(
    again: Callable[..., ScoringResult], whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "out"))
    first, *others = sorted(out.glob("part-*"))
    kept = {part.name: part.stat().st_mtime_ns for part in others}
    first.unlink()
    first.mkdir()
    (first / "in the way").write_text("x")
    with pytest.raises(ScoringError, match=r"shard 0: .*The same command resumes"):
        again(str(out))
    shutil.rmtree(first)
    assert again(str(out)).resumed == 2
    assert {part.name: part.stat().st_mtime_ns for part in others} == kept
    found, expected = (pd.read_parquet(folder).drop(columns="scored_at") for folder in (out, whole))
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(OutputExistsError, match="per_input_predictions was true, now false"):
        again(str(out), per_input_predictions=False)


def test_too_many_errors_stop_the_run_until_they_are_accepted_or_repaired(
    bundle_uri: str, ray_local: None, pairs: Manifest, tmp_path: Path
) -> None:
    few = take(pairs, 20).absolute()
    lost = [str(tmp_path / f"later{row}.jpg") for row in range(16)]
    source = MemoryInput(few.with_column("clinical_uri", [*lost, *few.column("clinical_uri")[16:]]))
    out = str(tmp_path / "out")
    with pytest.raises(ScoringError, match=r"16 of 20 pairs failed, more than --max-error-rate 0\.5"):
        score(bundle_uri, source, out, shard_size=10, options=ONE)
    assert not (tmp_path / "out" / "_SUCCESS.json").exists()
    accepted = score(bundle_uri, source, out, shard_size=10, options=ScoringOptions(1, max_error_rate=0.9))
    assert (accepted.counts.errors, accepted.resumed) == (16, 2)

    for row, path in enumerate(lost[:12]):
        Path(path).write_bytes(read_bytes(str(few.column("clinical_uri")[row])))
    repaired = score(bundle_uri, source, out, shard_size=10, options=ScoringOptions(1, retry_errors=True))
    assert (repaired.counts.scored, repaired.counts.errors, repaired.resumed) == (16, 4, 0)
    assert verify(out).error_codes == {"missing": 4}
