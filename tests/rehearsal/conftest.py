"""A cluster of four machines, built by typing docs/start/cluster.md."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import httpx
import psutil
import pytest

from tests.rehearsal.document import Block, blocks
from tests.rehearsal.network import OUTSIDE, Machine, allowed, bridge

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
BUCKET = "rehearsal"
STORAGE_PORT = 5555
GRACE_S = 15
"""Of a notice here, where the document says 90 s: the rest of it would only be waited for."""


def wait_for(condition: Callable[[], object], what: str, timeout_s: float = 300) -> float:
    """Wait until a condition holds and return when it was seen to, in seconds since 1970."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s: {what}"
        time.sleep(0.2)
    return time.time()


@dataclass
class Rehearsal:
    """The cluster.

    Attributes:
        folder: logs, and the home of whoever types.
        temporary: where Ray keeps its files, on every machine.
        head, workers: machines; a lost worker is replaced in its place.
    """

    folder: Path
    temporary: Path
    environment: dict[str, str]
    head: Machine
    workers: list[Machine] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)
    staying: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _made: int = 1

    def block(self, where: str) -> Block:
        """Return the one block of the document whose first line begins so."""
        (found,) = [block for block in blocks() if block.where.startswith(where)]
        return found

    def _setup(self) -> str:
        """The first block, with our addresses put in."""
        lines = self.block("everywhere").script.splitlines()
        assert lines[0].startswith("export HEAD="), lines
        return "\n".join([f"export HEAD={self.head.address} BUCKET=s3://{BUCKET}", *lines[1:], ""])

    def stay(self, machine: Machine, script: str, name: str) -> "subprocess.Popen[bytes]":
        """Type on a machine what stays there."""
        process = machine.start(self._setup() + script, self.folder / f"{name}.log", self.environment)
        self.staying.append(process)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def type(self, script: str, timeout_s: float = 900) -> str:
        """Type at the desk, which is the head, and return what is said; it has to succeed."""
        done = subprocess.run(
            self.head.command(self._setup() + script),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}"
        return done.stdout

    def type_block(self, where: str) -> str:
        """Type a block of the desk or the head."""
        self.said[where] = self.type(self.block(where).script)
        return self.said[where]

    def begin(self, script: str, name: str) -> "subprocess.Popen[bytes]":
        """Begin a script at the desk."""
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                self.head.command(self._setup() + script),
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )

    def add_worker(self) -> Machine:
        """One more machine, started by the document's block."""
        self._made += 1
        machine = Machine(self._made, self.temporary)
        self.workers.append(machine)
        script = self.block("on each worker").script
        assert "TIMEOUT_S=90" in script
        self.stay(machine, script.replace("TIMEOUT_S=90", f"TIMEOUT_S={GRACE_S}"), machine.name)
        return machine

    def replace(self, lost: Machine) -> None:
        """Take a lost machine away, and bring another one."""
        self.workers.remove(lost)
        lost.remove()
        self.add_worker()
        self.wait_for_nodes(1 + len(self.workers))

    def end(self) -> None:
        """Take all machines away."""
        for machine in (*self.workers, self.head):
            machine.remove()
        for process in self.staying:
            process.wait(60)

    def wait_for_nodes(self, count: int) -> None:
        wait_for(lambda: self.alive() == count, f"{count} nodes, {self.alive()} there", 180)

    def alive(self) -> int:
        """Nodes that the head takes for alive."""
        token = (self.folder / "home/.ray/auth_token").read_text().strip()
        ask = f"curl -s -m 10 -H 'Authorization: Bearer {token}' 'http://127.0.0.1:8265/nodes?view=summary'"
        said = subprocess.run(self.head.command(ask), capture_output=True, text=True, check=False).stdout
        try:
            nodes = json.loads(said)["data"]["summary"]
        except (KeyError, ValueError):
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in nodes)

    def machine_with(self, kind: str) -> Machine | None:
        """The first worker machine that runs a process of this name."""
        for machine in self.workers:
            for process in machine.processes():
                with suppress(psutil.NoSuchProcess):
                    if kind in " ".join(process.cmdline()):
                        return machine
        return None


@contextmanager
def object_storage(folder: Path) -> Iterator[dict[str, str]]:
    """An S3 endpoint that the machines reach; yields the variables that name it."""
    settings = {
        "AWS_ENDPOINT_URL": f"http://{OUTSIDE}:{STORAGE_PORT}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    command = [str(BIN / "moto_server"), "-H", OUTSIDE, "-p", str(STORAGE_PORT)]
    with (folder / "storage.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            wait_for(lambda: _answers(settings["AWS_ENDPOINT_URL"]), "storage", 60)
            client = boto3.client(
                "s3",
                endpoint_url=settings["AWS_ENDPOINT_URL"],
                aws_access_key_id="testing",
                aws_secret_access_key="testing",
                region_name="us-east-1",
            )
            with closing(client):
                client.create_bucket(Bucket=BUCKET)
            yield settings
        finally:
            server.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """A head and three workers of two CPUs that share this machine's."""
    if not allowed():
        pytest.skip("network namespaces need root and CAP_NET_ADMIN")
    folder = tmp_path_factory.mktemp("rehearsal")
    (folder / "home").mkdir()
    inherited = {name: os.environ[name] for name in ("LANG", "PYTHONPATH") if name in os.environ}
    # Long paths do not fit into the sockets that Ray makes.
    temporary = Path(f"/tmp/dermray-{os.getpid()}")
    temporary.mkdir()
    with ExitStack() as stack:
        stack.callback(temporary.rmdir)
        stack.enter_context(bridge())
        settings = stack.enter_context(object_storage(folder))
        own = {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(folder / "home"), "RAY_TMPDIR": str(temporary)}
        there = Rehearsal(folder, temporary, inherited | own | settings, Machine(1, temporary))
        stack.callback(there.end)
        there.type_block("at your desk: the token")
        there.stay(there.head, there.block("on the head, for as long as the cluster lives").script, "head")
        wait_for(lambda: there.alive() == 1, "the head", 180)
        for _ in range(3):
            there.add_worker()
        there.wait_for_nodes(4)
        yield there
