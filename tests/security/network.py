"""Two machines on one wire, as network namespaces, and a Ray head on one of them."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.security.listeners import Listener

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
TOKEN = "5e" * 20
EVERYWHERE = "0.0.0.0"  # noqa: S104
GCS, DASHBOARD, AGENT, CLIENT, METRICS = 6379, 8265, 52365, 10001, 8080
Done = subprocess.CompletedProcess[str]
_WIRES = itertools.count()


SCAN = """
import dataclasses, json, sys
from tests.security.listeners import scan
print(json.dumps([dataclasses.astuple(one) for one in scan(map(int, sys.argv[1:]))]))
"""


@dataclass(frozen=True)
class Machine:
    """A network namespace with one address beside loopback."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Return the command that runs another on this machine, in the same process."""
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, timeout: float = 300, **environment: str) -> Done:
        return subprocess.run(
            self.command(*words), env=os.environ | environment, capture_output=True, text=True, timeout=timeout,
            check=False, cwd=ROOT,
        )  # fmt: skip

    def derm_ray(self, *arguments: str, **environment: str) -> Done:
        """Run the command as a user does, who has said nothing about open clusters."""
        return self.run(
            sys.executable, "-m", "derm_ray", *arguments, **({"DERM_RAY_INSECURE_CLUSTER": "0"} | environment)
        )

    def curl(self, url: str, *more: str) -> tuple[int, str]:
        """Return status and body; 0 where nobody answers."""
        done = self.run("curl", "-s", "-m", "60", "-w", "\n%{http_code}", *more, url)
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), body

    def listeners(self) -> list[Listener]:
        """Return what listens on this machine."""
        done = self.run(sys.executable, "-c", SCAN, *map(str, self.pids()))
        return [Listener(*one) for one in json.loads(done.stdout)]

    def pids(self) -> list[int]:
        done = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return [int(pid) for pid in done.stdout.split()]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def wire() -> Iterator[tuple[Machine, Machine]]:
    """Two machines that reach each other and nobody else."""
    number = next(_WIRES)
    subnet = f"10.{150 + os.getpid() % 50}.{number}"
    here, there = (
        Machine(f"derm{os.getpid()}-{number}{side}", f"{subnet}.{host}") for side, host in (("a", 1), ("b", 2))
    )
    try:
        _ip("netns", "add", here.name)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no network namespaces here: they take root and the command ip")
    try:
        _ip("netns", "add", there.name)
        _ip("link", "add", "wire", "netns", here.name, "type", "veth", "peer", "name", "wire", "netns", there.name)
        for machine in (here, there):
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "wire")
            for link in ("lo", "wire"):
                _ip("-n", machine.name, "link", "set", link, "up")
        yield here, there
    finally:
        for machine in (here, there):
            _end(machine.pids())
            subprocess.run(["ip", "netns", "del", machine.name], check=False, capture_output=True)


def _end(pids: list[int]) -> None:
    """End processes, and kill those that do not."""
    there = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    for process in there:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(there, timeout=10)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@dataclass(frozen=True)
class Head:
    """A Ray head and a stranger's machine beside it.

    Attributes:
        environment: what its users set.
        temp: Ray's folder.
    """

    machine: Machine
    stranger: Machine
    environment: Mapping[str, str]
    temp: Path
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def gcs(self) -> str:
        return f"{self.machine.address}:{GCS}"

    @property
    def jobs(self) -> str:
        return f"http://{self.machine.address}:{DASHBOARD}"

    def derm_ray(self, *arguments: str, **environment: str) -> Done:
        """Run the command on the head, with the token."""
        return self.machine.derm_ray(*arguments, **{**self.environment, **environment})


@contextmanager
def head(
    machines: tuple[Machine, Machine], environment: Mapping[str, str], *, cpus: int = 2, dashboard: str = EVERYWHERE
) -> Iterator[Head]:
    """``ray start --head`` on the first machine, on the usual ports."""
    machine, stranger = machines
    temp = Path(tempfile.mkdtemp(prefix="drs", dir="/tmp"))
    try:
        command = machine.command(
            str(BIN / "ray"), "start", "--head", "--block", f"--num-cpus={cpus}", f"--node-ip-address={machine.address}",
            f"--port={GCS}", f"--dashboard-host={dashboard}", f"--dashboard-port={DASHBOARD}", f"--temp-dir={temp}/ray",
            f"--metrics-export-port={METRICS}", "--disable-usage-stats", "--object-store-memory=200000000",
        )  # fmt: skip
        started = os.environ | {
            "PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0", **environment,
        }  # fmt: skip
        with (temp / "out").open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=started, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 240
            alive = [
                f"http://127.0.0.1:{DASHBOARD}/api/gcs_healthz",
                f"http://127.0.0.1:{AGENT}/api/local_raylet_healthz",
            ]
            while not all(machine.curl(url)[0] == 200 for url in alive):
                assert time.monotonic() < deadline, (temp / "out").read_text()
                assert process.poll() is None, (temp / "out").read_text()
                time.sleep(0.5)
            yield Head(machine, stranger, environment, temp, process)
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(temp, ignore_errors=True)
