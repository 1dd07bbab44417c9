"""The whole path against a real S3 endpoint: import, train, evaluate, score."""

import pandas as pd
import pytest

from derm_ray import storage
from derm_ray.bundle import load_bundle
from derm_ray.data.importers.folder import import_folder
from derm_ray.data.inputs import MemoryInput
from derm_ray.data.manifest import Manifest, read_manifest, write_manifest
from derm_ray.data.splits import split_manifest
from derm_ray.data.synthetic import synthesize
from derm_ray.data.validation import validate
from derm_ray.domain import PAPER15, Split
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.evaluation.report import write_evaluation
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def archive(ray_local: None, s3: str) -> Manifest:
    """150 pairs in a bucket, imported from a CSV that lies there, split."""
    drawn = synthesize(f"{s3}/archive", 150, PAPER15)
    listing = drawn.table.select(["lesion_id", "clinical_uri", "dermoscopy_uri", "diagnosis"]).to_pandas()
    storage.write_bytes(f"{s3}/archive/list.csv", listing.to_csv(index=False).encode())
    imported = import_folder(f"{s3}/archive/list.csv", PAPER15, f"{s3}/manifests/m.csv").manifest
    write_manifest(split_manifest(imported).manifest, f"{s3}/manifests/m.csv")
    manifest = read_manifest(f"{s3}/manifests/m.csv")
    validate(manifest, PAPER15, complete=tuple(Split))
    return manifest


def test_train_evaluate_and_score_in_a_bucket(archive: Manifest, s3: str) -> None:
    config = make_config("debug", {"epochs": 2, "size": 32})
    result = train(config, archive, f"{s3}/runs", "first", workers=2)
    assert result.bundle_uri == f"{s3}/runs/first/bundle"
    checkpoints = {uri.split("/")[5] for uri in storage.list_files(result.run_uri) if "/checkpoint_epoch_" in uri}
    assert "checkpoint_epoch_0002" in checkpoints
    assert storage.exists(f"{result.run_uri}/metrics.jsonl")

    evaluation = evaluate(Predictor(load_bundle(result.bundle_uri), "torch"), archive, resamples=10)
    for uri in write_evaluation(evaluation, f"{s3}/evaluation"):
        assert storage.exists(uri)

    scored = score(
        result.bundle_uri,
        MemoryInput(archive),
        f"{s3}/scores",
        engine="torch",
        shard_size=64,
        options=ScoringOptions(1),
    )
    assert scored.counts.scored == 150
    parts = [uri for uri in storage.list_files(scored.out_uri) if uri.endswith(".parquet") and "/part-" in uri]
    assert len(parts) == 3
    assert sum(len(pd.read_parquet(uri)) for uri in parts) == 150
    assert (
        score(
            result.bundle_uri,
            MemoryInput(archive),
            f"{s3}/scores",
            engine="torch",
            shard_size=64,
            options=ScoringOptions(1),
        ).resumed
        == 3
    )
