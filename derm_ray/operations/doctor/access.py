"""Who could run code here: Ray's token, and ports that others can reach."""

import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from derm_ray.errors import ConfigError
from derm_ray.exposure import TOKEN_PATH, find_home_problem, home_token_path, nodes_told_to_strangers
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
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        return Finding("Ray's token", "switched off by RAY_AUTH_MODE: for machines that nobody else reaches")
    if mode not in (None, "token"):  # also where it is empty, Ray takes it for said
        return Finding("Ray's token", f"RAY_AUTH_MODE is {mode!r}", "set RAY_AUTH_MODE=token")
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Finding("Ray's token", "in RAY_AUTH_TOKEN, which every process of a job inherits")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(named) if named else home_token_path()
    except ConfigError as error:
        return _no_home(str(error), mode)
    make = "(umask 077; ray get-auth-token --generate > /dev/null)"
    if named:  # Ray makes the other one only
        make = f"copy the cluster's, or: (umask 077; python -c 'import secrets; print(secrets.token_hex(32))' > {path})"
    try:
        value, permissions = path.read_text().strip(), path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not named and (problem := find_home_problem()):
            return _no_home(problem, mode)
        if mode == "token" or named:
            return Finding("Ray's token", f"{path}: not found", make)
        return Finding("Ray's token", f"none: a local Ray makes one at {path}; a cluster started here would be open")
    except OSError as error:
        return Finding("Ray's token", f"{path}: {error.strerror}", f"let this user read {path}")
    if not value:
        return Finding("Ray's token", f"{path}: empty", f"remove it; {make}")
    if permissions & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding("Ray's token", f"{path}: others can read it", f"chmod 600 {path}")
    return Finding("Ray's token", str(path))


def _no_home(problem: str, mode: str | None) -> Finding:
    fix = f"set {TOKEN_PATH} to a file that holds the cluster's" if mode == "token" else ""
    return Finding("Ray's token", f"{problem}: a local Ray makes one for each command", fix)


def ports() -> Iterator[Finding]:
    """Yield who listens on the known ports, and which of them let strangers in."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS
        yield Finding("ports", "only the superuser may look at who listens here: sudo derm-ray doctor")
        return
    for connection in sorted(connections, key=str):
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
    if not ipaddress.ip_address(address).is_loopback:
        ip = ipaddress.ip_address(address)
        host = "127.0.0.1" if ip.is_unspecified else f"[{address}]" if ip.version == 6 else address
        if (port == DASHBOARD and _shows_jobs(host)) or (name == "gcs_server" and _tells_nodes(f"{host}:{port}")):
            return Finding(subject, f"{found}, {PORTS[port]} without a token", OPEN)
    return Finding(subject, f"{found} ({PORTS[port]} by default)")


def _shows_jobs(host: str) -> bool:
    """Ask Ray's dashboard for its jobs as a stranger does."""
    try:
        return httpx.get(f"http://{host}:{DASHBOARD}/api/jobs/", timeout=5, trust_env=False).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _tells_nodes(gcs: str) -> bool:
    """Ask Ray's head for its nodes as a stranger does."""
    try:
        return bool(nodes_told_to_strangers(gcs))
    except ConfigError:
        return False
