"""Bulk scoring on Ray Data, and the same probabilities wherever a pair is scored."""

import json
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.inputs import MemoryInput
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PredictionKind, Split
from derm_ray.errors import OutputExistsError, ScoringError
from derm_ray.evaluation.evaluate import predict_pairs
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.scoring.reconcile import verify
from derm_ray.serving.endpoint import endpoint
from derm_ray.storage import read_bytes
from tests.conftest import TrainedRun, take

pytestmark = pytest.mark.ray
ONE = ScoringOptions(replicas=1)


@pytest.mark.parametrize(
    ("engine", "tolerance"), [("torch", 1e-5), pytest.param("torch-bf16", 2e-2, marks=pytest.mark.slow)]
)
def test_evaluation_bulk_and_endpoint_give_the_same_probabilities(
    trained: TrainedRun, tmp_path: Path, free_port: int, engine: str, tolerance: float
) -> None:
    few = take(trained.manifest.select(Split.TEST), 24)
    exact = Predictor(load_bundle(trained.bundle_uri), "torch")
    evaluated = predict_pairs(exact, few.pairs(), few.uri)[PredictionKind.CROSS]
    score(
        trained.bundle_uri,
        MemoryInput(few),
        str(tmp_path / "out"),
        engine=engine,
        shard_size=10,
        options=ScoringOptions(replicas=2),
    )
    classes = exact.bundle.label_set.class_names
    frame = pd.read_parquet(tmp_path / "out").set_index("pair_id").loc[few.column("pair_id")]
    bulk = frame[[f"p_{name}" for name in classes]].to_numpy()
    with endpoint(trained.bundle_uri, engine=engine, port=free_port) as served:
        url = served.url
        online = [
            httpx.post(
                f"{url}/v1/score",
                files={"clinical": read_bytes(str(p.clinical_uri)), "dermoscopy": read_bytes(str(p.dermoscopy_uri))},
                timeout=180,
            ).json()
            for p in few.pairs()
        ]
        told = httpx.get(f"{url}/v1/model").json()
    assert told["run_id"] == exact.bundle.run_id is not None
    served = np.array([[answer["probabilities"][name] for name in classes] for answer in online])
    assert np.abs(bulk - evaluated).max() <= tolerance
    assert np.abs(served - evaluated).max() <= tolerance
    assert set(frame["engine"]) == {engine}
    assert {answer["model_digest"] for answer in online} == set(frame["model_digest"]) == {exact.bundle.model_digest}


def test_errors_are_rows_and_a_lost_part_is_rescored_alone(
    trained: TrainedRun, pairs: Manifest, tmp_path: Path
) -> None:
    few = take(pairs, 30).absolute()
    uris = few.column("clinical_uri")
    few = few.with_column("clinical_uri", [None, "/nowhere/x.jpg", *uris[2:]])
    out = tmp_path / "out"
    result = score(
        trained.bundle_uri, MemoryInput(few), str(out), shard_size=10, per_input_predictions=True, options=ONE
    )
    assert (result.counts.scored, result.counts.errors, result.resumed) == (29, 1, 0)
    frame = pd.read_parquet(out).set_index("pair_id")
    assert frame.loc["SYN_000000", "modality"] == "dermoscopy"
    assert np.isnan(frame.loc["SYN_000000", "cross_melanoma"])
    assert frame.loc["SYN_000001", "error_code"] == "missing"
    assert json.loads((out / "_SUCCESS.json").read_text())["errors"] == 1

    parts = sorted(out.glob("part-*"))
    kept = {part.name: part.stat().st_mtime_ns for part in parts[1:]}
    parts[0].unlink()
    again = score(
        trained.bundle_uri, MemoryInput(few), str(out), shard_size=10, per_input_predictions=True, options=ONE
    )
    assert again.resumed == 2
    assert {p.name: p.stat().st_mtime_ns for p in parts[1:]} == kept
    assert (
        pd.read_parquet(out)
        .drop(columns="scored_at")
        .equals(frame.reset_index()[pd.read_parquet(out).columns].drop(columns="scored_at"))
    )
    with pytest.raises(OutputExistsError, match="per_input_predictions was true, now false"):
        score(trained.bundle_uri, MemoryInput(few), str(out), shard_size=10, options=ONE)


def test_an_output_that_cannot_be_written_stops_the_run_resumably(
    trained: TrainedRun, pairs: Manifest, tmp_path: Path
) -> None:
    few = take(pairs, 20)
    out = tmp_path / "out"
    score(trained.bundle_uri, MemoryInput(few), str(out), shard_size=10, options=ONE)
    part = sorted(out.glob("part-*"))[0]
    part.unlink()
    part.mkdir()
    (part / "in the way").write_text("x")
    with pytest.raises(ScoringError, match=r"shard 0: .*The same command resumes"):
        score(trained.bundle_uri, MemoryInput(few), str(out), shard_size=10, options=ONE)
    (part / "in the way").unlink()
    part.rmdir()
    assert score(trained.bundle_uri, MemoryInput(few), str(out), shard_size=10, options=ONE).counts.scored == 20


def test_too_many_errors_stop_the_run_each_time_until_they_are_mended_or_accepted(
    bundle_uri: str, ray_local: None, pairs: Manifest, tmp_path: Path
) -> None:
    few = take(pairs, 20).absolute()
    lost = [str(tmp_path / f"later{row}.jpg") for row in range(16)]
    source = MemoryInput(few.with_column("clinical_uri", [*lost, *few.column("clinical_uri")[16:]]))
    out = str(tmp_path / "out")
    for retry in (False, True):
        with pytest.raises(ScoringError, match=r"16 of 20 pairs are errors, more than --max-error-rate 0\.5"):
            score(bundle_uri, source, out, shard_size=10, options=ScoringOptions(1, retry_errors=retry))
        assert not (tmp_path / "out" / "_SUCCESS.json").exists()
    accepted = score(bundle_uri, source, out, shard_size=10, options=ScoringOptions(1, max_error_rate=0.9))
    assert (accepted.counts.errors, accepted.resumed) == (16, 2)

    for row, path in enumerate(lost[:12]):
        Path(path).write_bytes(read_bytes(str(few.column("clinical_uri")[row])))
    repaired = score(bundle_uri, source, out, shard_size=10, options=ScoringOptions(1, retry_errors=True))
    assert (repaired.counts.scored, repaired.counts.errors, repaired.resumed) == (16, 4, 0)
    assert verify(out).error_codes == {"missing": 4}
