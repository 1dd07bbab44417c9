"""Runs of the real command in a process of its own, on S3 behind a fault proxy, compared with a fault-free run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pytest

from derm_ray import storage
from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest, normalize_schema, write_manifest
from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15
from tests.faults.proxy import FaultProxy, Faults

PAIRS = 960
SHARD = 32
PARTS = PAIRS // SHARD


@pytest.fixture(scope="session")
def archive(s3: str) -> str:
    """A manifest in a bucket: 960 pairs that share the images of 40, one of them missing and one without dermoscopy."""
    drawn = synthesize(f"{s3}/faults", 40, PAPER15).absolute()
    clinical, dermoscopy = drawn.column("clinical_uri"), list(drawn.column("dermoscopy_uri"))
    dermoscopy[7] = None
    clinical[9] = f"{s3}/faults/nowhere.jpg"
    rows = [i % 40 for i in range(PAIRS)]
    table = pa.table(
        {
            "lesion_id": [f"L{i:05d}" for i in range(PAIRS)],
            "clinical_uri": [clinical[i] for i in rows],
            "dermoscopy_uri": [dermoscopy[i] for i in rows],
        }
    )
    write_manifest(Manifest(normalize_schema(table, "").table, f"{s3}/faults/m.parquet"), f"{s3}/faults/m.parquet")
    return f"{s3}/faults/m.parquet"


@dataclass
class Scoring:
    """``derm-ray score`` in a process of its own."""

    arguments: list[str]
    environment: dict[str, str]
    out: str
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> "Scoring":
        command = [str(Path(sys.executable).parent / "derm-ray"), "score", *self.arguments, "--out", self.out]
        with self.log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env=os.environ | self.environment, start_new_session=True
            )
        return self

    def end(self, timeout_s: float = 600) -> int:
        return self.process.wait(timeout_s)

    def text(self) -> str:
        return self.log.read_text()

    def parts(self) -> dict[str, bytes]:
        names = [name for name in storage.list_folder(self.out) if name.startswith("part-")]
        return {name: storage.read_bytes(storage.join(self.out, name)) for name in names}

    def wait_for_parts(self, count: int) -> None:
        deadline = time.monotonic() + 300
        while sum(name.startswith("part-") for name in storage.list_folder(self.out)) < count:
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)

    def actors(self, kind: str = "ScoringActor") -> list[psutil.Process]:
        """The processes that score, below this driver; or those of another kind."""
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if any(kind in word for word in child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def kill_tree(self) -> None:
        """Kill the driver with SIGKILL, and what it left behind."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue


Score = Callable[..., Scoring]


@pytest.fixture
def score(archive: str, bundle_uri: str, s3: str, tmp_path: Path) -> Iterator[Score]:
    """Start a run: ``score(faults)`` on S3 behind a proxy of its own, ``score(out=folder)`` anywhere."""
    begun: list[Scoring] = []

    def start(proxy: FaultProxy | None = None, out: str | None = None, *more: str) -> Scoring:
        arguments = ["--model", bundle_uri, "--input", archive, "--engine", "torch", "--shard-size", str(SHARD), *more]
        environment = {"RAY_AUTH_MODE": "disabled"} | ({"AWS_ENDPOINT_URL": proxy.url} if proxy else {})
        out = out or f"{s3}/{tmp_path.name}/scores"
        begun.append(Scoring(arguments, environment, out, tmp_path / f"log{len(begun)}").start())
        return begun[-1]

    yield start
    for scoring in begun:
        if scoring.process.poll() is None:
            scoring.kill_tree()


@pytest.fixture
def proxy(s3: str) -> Iterator[Callable[[Faults], FaultProxy]]:
    proxies: list[FaultProxy] = []

    def make(faults: Faults) -> FaultProxy:
        proxies.append(FaultProxy(os.environ["AWS_ENDPOINT_URL"], faults))
        return proxies[-1]

    yield make
    for one in proxies:
        one.faults.release.set()
        one.shutdown()
        one.server_close()


@pytest.fixture(scope="session")
def expected(archive: str, bundle_uri: str, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The scores of a run without faults."""
    folder = tmp_path_factory.mktemp("calm")
    arguments = ["--model", bundle_uri, "--input", archive, "--engine", "torch", "--shard-size", str(SHARD)]
    calm = Scoring(arguments, {"RAY_AUTH_MODE": "disabled"}, str(folder / "out"), folder / "log").start()
    assert calm.end() == 0, calm.text()
    return frame(calm.out)


def frame(out: str) -> pd.DataFrame:
    """Return all rows but their times, by pair."""
    names = [name for name in storage.list_folder(out) if name.startswith("part-")]
    tables = [pd.read_parquet(storage.join(out, name)) for name in names]
    return pd.concat(tables).drop(columns="scored_at").sort_values("pair_id", ignore_index=True)


def assert_whole(scoring: Scoring, expected: pd.DataFrame) -> None:
    """Every pair once, scores equal, sealed, and nothing left behind."""
    found = frame(scoring.out)
    assert found["pair_id"].tolist() == expected["pair_id"].tolist()
    pd.testing.assert_frame_equal(found, expected, check_exact=False, rtol=0, atol=1e-5)
    assert set(found["model_digest"]) == {load_bundle(scoring.arguments[1]).model_digest}
    from derm_ray.scoring.reconcile import verify

    assert verify(scoring.out).pairs == PAIRS
    assert not [uri for uri in storage.list_files(scoring.out) if uri.endswith(".tmp") or "/attempts/" in uri]
