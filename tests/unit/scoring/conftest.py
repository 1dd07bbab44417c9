"""A run of 25 pairs, with a missing and a damaged image among them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from derm_ray import storage
from derm_ray.bundle import load_bundle
from derm_ray.data.locations import Locations
from derm_ray.data.manifest import Manifest
from derm_ray.scoring.ledger import Run, RunDescription, check_folder, open_run
from derm_ray.scoring.scorer import ShardScorer
from tests.conftest import take
from tests.inputs import MemoryInput

Opened = Callable[..., Run]


@pytest.fixture
def few(pairs: Manifest, tmp_path: Path) -> Manifest:
    first = take(pairs.absolute(), 25)
    uris = first.column("clinical_uri")
    (tmp_path / "cut.jpg").write_bytes(Path(str(uris[3])).read_bytes()[:1500])
    return first.with_column("clinical_uri", [*uris[:3], str(tmp_path / "cut.jpg"), *uris[4:24], "/nowhere.jpg"])


@pytest.fixture
def opened(few: Manifest, bundle_uri: str, tmp_path: Path) -> Opened:
    """Open the run, with changes to its description."""

    def open_it(manifest: Manifest = few, out: str = str(tmp_path / "out"), **changes: Any) -> Run:
        values: dict[str, Any] = {
            "model_digest": load_bundle(bundle_uri).model_digest,
            "label_set": "paper15",
            "engine": "torch",
            "per_input_predictions": False,
            "saliency": False,
            "format": "parquet",
            "shard_size": 10,
        }
        source = MemoryInput(manifest)
        check_folder(out)
        description = RunDescription(**values | changes)
        return open_run(out, source, description, Locations(source.uri), source.fingerprint())

    return open_it


@pytest.fixture
def run(opened: Opened) -> Run:
    return opened()


def score_all(run: Run, bundle_uri: str) -> None:
    scorer = ShardScorer(bundle_uri, "torch", run.out_uri, run.description, batch_size=4)
    for shard in run.missing():
        scorer.score(shard)


def remove_part(run: Run, index: int) -> None:
    storage.remove(run.part_uri(run.shards[index]))
