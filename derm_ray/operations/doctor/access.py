"""Who could run code here: Ray's token, and ports that others can reach."""

import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from derm_ray.operations.doctor.finding import Finding
from derm_ray.operations.listeners import DASHBOARD, LISTENERS

PORTS = {entry.ports.start: entry.what for entry in LISTENERS if len(entry.ports) == 1}
"""By Ray's defaults, and ours."""
OPEN = (
    "whoever reaches it runs code here: start Ray with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, and the dashboard "
    "on 127.0.0.1"
)


def access() -> Iterator[Finding]:
    """Yield how Ray's token is set here, and what listens on the ports that matter."""
    yield token()
    yield from ports()


def token() -> Finding:
    """Judge the token that this machine's Ray would use; its value is never told."""
    mode = os.environ.get("RAY_AUTH_MODE", "")
    if mode == "disabled":
        return Finding("Ray's token", "switched off by RAY_AUTH_MODE: for machines that nobody else reaches")
    if mode not in ("", "token"):
        return Finding("Ray's token", f"RAY_AUTH_MODE is {mode!r}", "set RAY_AUTH_MODE=token")
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Finding("Ray's token", "in RAY_AUTH_TOKEN, which every process of a job inherits")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named or Path.home() / ".ray" / "auth_token")
    make = f"(umask 077; ray get-auth-token --generate > {path})"
    try:
        value, permissions = path.read_text().strip(), path.stat().st_mode
    except FileNotFoundError:
        if mode == "token" or named:
            return Finding("Ray's token", f"{path}: not found", make)
        return Finding("Ray's token", f"none: a local Ray makes one at {path}; a cluster started here would be open")
    except OSError as error:
        return Finding("Ray's token", f"{path}: {error.strerror}", f"let this user read {path}")
    if not value:
        return Finding("Ray's token", f"{path}: empty", make)
    if permissions & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("Ray's token", f"{path}: others can read it", f"chmod 600 {path}")
    return Finding("Ray's token", str(path))


def ports() -> Iterator[Finding]:
    """Yield who listens on the known ports, and which of them let strangers in."""
    for connection in sorted(psutil.net_connections("tcp"), key=str):
        where = connection.laddr
        if connection.status == psutil.CONN_LISTEN and len(where) == 2 and where[1] in PORTS:
            yield _listener(where[0], where[1], connection.pid)


def _listener(address: str, port: int, pid: int | None) -> Finding:
    try:
        name = psutil.Process(pid).name() if pid else "another user's process"
    except psutil.NoSuchProcess:
        name = "a process that has ended"
    found = f"{name} ({pid}) listens on {address}" if pid else f"{name} listens on {address}"
    subject = f"port {port}"
    if port == DASHBOARD and not ipaddress.ip_address(address).is_loopback and not _asks_for_a_token(address, port):
        return Finding(subject, f"{found}, {PORTS[port]} without a token", OPEN)
    return Finding(subject, f"{found} ({PORTS[port]} by default)")


def _asks_for_a_token(address: str, port: int) -> bool:
    """Ask Ray's dashboard for its jobs as a stranger does."""
    ip = ipaddress.ip_address(address)
    host = "127.0.0.1" if ip.is_unspecified else f"[{address}]" if ip.version == 6 else address
    try:
        return httpx.get(f"http://{host}:{port}/api/jobs/", timeout=5, trust_env=False).status_code != 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return True
