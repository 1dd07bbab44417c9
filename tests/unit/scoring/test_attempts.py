import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from derm_ray import storage
from derm_ray.scoring.attempts import Attempts
from derm_ray.scoring.ledger import Run
from derm_ray.scoring.shards import Shard

POISON = """
import sys, os
from derm_ray.data.archives.reader import ImageReader
from derm_ray.scoring.ledger import load_run
from derm_ray.scoring.scorer import ShardScorer

read = ImageReader.read
def poisoned(self, uri):
    if "000014" in uri:
        os._exit(99)
    return read(self, uri)
ImageReader.read = poisoned
run = load_run(sys.argv[1])
ShardScorer(sys.argv[2], "torch", run.out_uri, run.description).score(run.shards[1])
"""


@pytest.mark.slow
def test_a_pair_that_kills_its_process_becomes_a_row(run: Run, bundle_uri: str) -> None:
    codes = []
    while not storage.exists(run.part_uri(run.shards[1])):
        assert len(codes) < 5
        command = [sys.executable, "-c", POISON, run.out_uri, bundle_uri]
        codes.append(subprocess.run(command, check=False).returncode)
    assert codes == [99, 99, 99, 99, 0]
    rows = pq.read_table(run.part_uri(run.shards[1])).to_pylist()
    assert [row["error_code"] for row in rows] == [None] * 4 + ["crash"] + [None] * 5
    assert storage.list_folder(f"{run.out_uri}/_run/attempts") == []


def test_a_pair_that_was_merely_there_is_not_blamed(tmp_path: Path) -> None:
    shard = Shard(0, 0, 10, "d")
    for row in (3, 5, 7, 5):
        Attempts(str(tmp_path), shard).__enter__().begin(row)
    attempts = Attempts(str(tmp_path), shard).__enter__()
    assert attempts.one_by_one
    assert [row for row in range(10) if not attempts.begin(row)] == [5]


def test_a_failure_that_is_told_is_no_death(tmp_path: Path) -> None:
    shard = Shard(0, 0, 10, "d")
    for _ in range(5):
        try:
            with Attempts(str(tmp_path), shard) as attempts:
                assert not attempts.one_by_one
                raise StopIteration
        except StopIteration:
            pass
    assert list(tmp_path.iterdir()) == []
