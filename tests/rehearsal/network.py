"""Machines of their own on this one: network namespaces with addresses, joined by a bridge."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SUBNET = "10.77.0"
OUTSIDE = f"{SUBNET}.254"
"""The address of this machine itself, where the storage listens and commands are given."""
_BRIDGE = "dermray0"
_BRIDGE_MAC = "02:00:0a:4d:00:fe"
"""Fixed: a bridge's own changes with its cables, and what was on its way to it would be lost until it is asked for again."""


def allowed() -> bool:
    """Tell whether this process may make namespaces."""
    name = f"dermray-probe-{os.getpid()}"
    if os.geteuid() != 0 or subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    _ip("netns", "del", name)
    return True


class Machine:
    """A namespace with an address, ports and connections of its own; it shares processors with this machine, and files but for one folder.

    Args:
        number: last part of its address.
        temporary: the folder that is another one on each machine.

    Attributes:
        disk: where that folder lies here.
    """

    def __init__(self, number: int, temporary: Path) -> None:
        self.name = f"dermray-{number}"
        self.address = f"{SUBNET}.{number}"
        self._cable = f"dermray-v{number}"
        self._temporary, self.disk = temporary, temporary.with_name(f"{temporary.name}-{number}")
        self.disk.mkdir()
        _ip("netns", "add", self.name)
        _ip("link", "add", self._cable, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("link", "set", self._cable, "master", _BRIDGE, "up")
        _ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            _ip("-n", self.name, "link", "set", device, "up")
        _ip("-n", self.name, "route", "add", "default", "via", OUTSIDE)

    def command(self, script: str) -> list[str]:
        """Return what runs a shell script on the machine."""
        mounted = f"mount --bind {self.disk} {self._temporary}\n{script}"
        return ["ip", "netns", "exec", self.name, "bash", "-euo", "pipefail", "-c", mounted]

    def start(self, script: str, log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Begin a shell script on the machine; its output goes to ``log``."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.command(script), env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def processes(self) -> list[psutil.Process]:
        """What runs on the machine."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True, check=True)
        return [psutil.Process(int(pid)) for pid in found.stdout.split() if psutil.pid_exists(int(pid))]

    def lose(self) -> None:
        """Lose the machine without a word: no connection is closed, no answer comes."""
        _ip("link", "set", self._cable, "down")
        self.end(signal.SIGKILL)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to all that runs there."""
        for process in self.processes():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def remove(self) -> None:
        """End it and give its address back."""
        self.end()
        _ip("link", "del", self._cable)  # at once: a namespace goes only when the last of its processes has gone
        _ip("netns", "del", self.name)
        shutil.rmtree(self.disk, ignore_errors=True)


@contextmanager
def bridge() -> Iterator[None]:
    """The network between the machines; this machine is :data:`OUTSIDE` on it."""
    _ip("link", "add", _BRIDGE, "address", _BRIDGE_MAC, "type", "bridge")
    try:
        _ip("addr", "add", f"{OUTSIDE}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        yield
    finally:
        _ip("link", "del", _BRIDGE)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
