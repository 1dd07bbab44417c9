"""Who could run code here: Ray's token, and ports that other machines reach."""

import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil

from derm_ray.cluster_auth import TOKEN_PATH, find_home_problem, home_token_path, nodes_without_token
from derm_ray.errors import ConfigError
from derm_ray.operations.doctor.finding import Finding

DASHBOARD = 8265
PORTS = {
    6379: "Ray's head",
    8000: "the endpoint",
    DASHBOARD: "Ray's dashboard and jobs",
    10001: "Ray's client server",
    44217: "metrics of the autoscaler",
    44227: "metrics of the dashboard",
    52365: "agent",
}
"""Fixed port -> what listens there, by Ray's defaults and derm_ray's; ``docs/_ports.yaml`` has all sockets."""
SUBJECT = "Ray's token"
OPEN = (
    "anyone who reaches it can run code here: start Ray with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, and the "
    "dashboard on 127.0.0.1"
)


def access() -> Iterator[Finding]:
    """Yield how Ray's token is set here, and what listens on the ports that matter."""
    yield token()
    yield from ports()


def token() -> Finding:
    """Check the token that this machine's Ray would use; its value is never shown."""
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode == "disabled":
        return Finding(SUBJECT, "switched off by RAY_AUTH_MODE: for machines that nobody else reaches")
    if mode not in (None, "token"):  # also where it is empty: Ray takes that for no token
        return Finding(SUBJECT, f"RAY_AUTH_MODE is {mode!r}", "set RAY_AUTH_MODE=token")
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return Finding(SUBJECT, "in RAY_AUTH_TOKEN, which every process of a job inherits")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(named) if named else home_token_path()
    except ConfigError as error:
        return _no_home(str(error), mode)
    create = "(umask 077; ray get-auth-token --generate > /dev/null)"
    if named:  # Ray generates only the one in the home folder
        create = (
            f"copy the cluster's, or: (umask 077; python -c 'import secrets; print(secrets.token_hex(32))' > {path})"
        )
    try:
        value, permissions = path.read_text().strip(), path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if not named and (problem := find_home_problem()):
            return _no_home(problem, mode)
        if mode == "token" or named:
            return Finding(SUBJECT, f"{path}: not found", create)
        return Finding(SUBJECT, f"none: a local Ray creates one at {path}; a cluster started here would be open")
    except OSError as error:
        return Finding(SUBJECT, f"{path}: {error.strerror}", f"let this user read {path}")
    if not value:
        return Finding(SUBJECT, f"{path}: empty", f"remove it; {create}")
    if permissions & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(SUBJECT, f"{path}: others can read it", f"chmod 600 {path}")
    return Finding(SUBJECT, str(path))


def _no_home(problem: str, mode: str | None) -> Finding:
    fix = f"set {TOKEN_PATH} to a file that holds the cluster's" if mode == "token" else ""
    return Finding(SUBJECT, f"{problem}: a local Ray creates one for each command", fix)


def ports() -> Iterator[Finding]:
    """Yield who listens on the known ports, and which of them accept callers without a token."""
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS
        yield Finding("ports", "only the superuser can see who listens here: sudo derm-ray doctor")
        return
    for connection in sorted(connections, key=str):
        address = connection.laddr
        if connection.status == psutil.CONN_LISTEN and len(address) == 2 and address[1] in PORTS:
            yield _check_port(address[0], address[1], connection.pid)


def _check_port(address: str, port: int, pid: int | None) -> Finding:
    try:
        name = psutil.Process(pid).name() if pid else "another user's process"
    except psutil.NoSuchProcess:
        name = "a process that has ended"
    found = f"{name} ({pid}) listens on {address}" if pid else f"{name} listens on {address}"
    ip = ipaddress.ip_address(address)
    host = "127.0.0.1" if ip.is_unspecified else f"[{address}]" if ip.version == 6 else address
    if not ip.is_loopback and (
        (port == DASHBOARD and _lists_jobs(host)) or (name == "gcs_server" and _lists_nodes(f"{host}:{port}"))
    ):
        return Finding(f"port {port}", f"{found}, {PORTS[port]} without a token", OPEN)
    return Finding(f"port {port}", f"{found} ({PORTS[port]} by default)")


def _lists_jobs(host: str) -> bool:
    """Return whether Ray's dashboard lists its jobs to a caller without a token."""
    try:
        return httpx.get(f"http://{host}:{DASHBOARD}/api/jobs/", timeout=5, trust_env=False).status_code == 200
    except (httpx.HTTPError, httpx.InvalidURL):
        return False


def _lists_nodes(gcs: str) -> bool:
    """Return whether Ray's head lists its nodes to a caller without a token."""
    try:
        return bool(nodes_without_token(gcs))
    except ConfigError:
        return False
