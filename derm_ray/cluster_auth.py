"""Who can use a Ray: its token, and whether it accepts callers without one from other machines."""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests

from derm_ray import ray_internals
from derm_ray.credentials import find_credential
from derm_ray.errors import ConfigError
from derm_ray.proxies import for_requests, is_loopback

INSECURE_VARIABLE = "DERM_RAY_INSECURE_CLUSTER"
"""``1`` lets commands use a Ray that anyone who reaches it can use."""
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
TIMEOUT_S = 30.0
USE_NODES = (
    "Command and settings can be read by everyone who reaches the cluster. Give the nodes the credentials instead: an "
    "IAM role, AWS_PROFILE, or a secret file mounted on them (AWS_SHARED_CREDENTIALS_FILE)."
)
_FIX = (
    "Set RAY_AUTH_MODE=token, and for a cluster RAY_AUTH_TOKEN_PATH, where Ray is started and here; or, on a network "
    f"that nobody else reaches, {INSECURE_VARIABLE}=1."
)


def insecure_allowed() -> bool:
    """Return whether the user accepts an open Ray.

    Raises:
        ConfigError: the variable is neither 0 nor 1.
    """
    value = os.environ.get(INSECURE_VARIABLE, "")
    if value not in ("", "0", "1"):
        raise ConfigError(f"{INSECURE_VARIABLE}={value}: set it to 1, or unset it.")
    return value == "1"


@contextmanager
def local_token() -> Iterator[None]:
    """Run a block in which a local Ray finds a token: the one in the home folder, else one for the block alone.

    A missing token in the home folder is created, readable by its user only; Ray itself would apply the umask. Where
    the home folder cannot hold one, as in many containers, the environment of Ray's own processes does.
    """
    named = any(name in os.environ for name in (TOKEN, TOKEN_PATH))
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or named or _token_at_home():
        yield
        return
    os.environ[TOKEN] = secrets.token_hex(32)
    ray_internals.forget_token()
    try:
        yield
    finally:
        del os.environ[TOKEN]
        ray_internals.forget_token()


def home_token_path() -> Path:
    """Return where Ray keeps its token by default.

    Raises:
        ConfigError: there is no home folder.
    """
    home = os.environ.get("HOME", "")  # Ray does not look into the password database
    if not os.path.isabs(home):
        raise ConfigError(f"HOME={home}: not an absolute path" if home else "HOME is not set")
    return Path(home) / ".ray" / "auth_token"


def find_home_problem() -> str:
    """Return why the home folder cannot hold Ray's token, or an empty text."""
    try:
        folder = home_token_path().parent
        with tempfile.TemporaryFile(dir=folder if folder.is_dir() else folder.parent):
            return ""
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"HOME={folder.parent}: not writable ({error.strerror})"


def _token_at_home() -> bool:
    """Return whether Ray finds a token in the home folder; one is created if necessary."""
    try:
        path = home_token_path()
    except ConfigError:
        return False
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(number, "w") as file:
                file.write(secrets.token_hex(32))
            os.link(name, path)
        finally:
            os.unlink(name)
    try:
        return bool(path.read_text().strip())
    except (OSError, UnicodeDecodeError):
        return False


def refuse_open_ray(gcs: str) -> None:
    """Refuse a Ray whose head answers a caller without a token, unless all its nodes are on loopback.

    Ray's servers listen on every interface of a node, except where the node's own address is 127.0.0.1.

    Args:
        gcs: ``HOST:PORT`` of the head.

    Raises:
        ConfigError: other machines can use it, or that cannot be found out.
    """
    if insecure_allowed():
        return
    if hosts := _other_hosts(nodes_without_token(gcs)):
        raise ConfigError(f"the Ray at {gcs} has no token: anyone who reaches {hosts} can run code on it. {_FIX}")


def refuse_open_jobs(url: str) -> None:
    """Refuse a jobs server that answers a caller without a token, unless it and all its nodes are on loopback.

    Args:
        url: of the jobs server, which answers.

    Raises:
        ConfigError: other machines can use it, or that cannot be found out.
    """
    if insecure_allowed() or _get_without_token(f"{url}/api/jobs/") is None:
        return
    answer = _get_without_token(nodes_url := f"{url}/nodes?view=summary")
    try:
        summary = answer.json()["data"]["summary"] if answer is not None else {}
        nodes = [node["raylet"]["nodeManagerAddress"] for node in summary]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{nodes_url}: does not list the cluster's nodes. Give the address of Ray's dashboard."
        ) from error
    if hosts := _other_hosts([urlsplit(url).hostname or "", *nodes]):
        raise ConfigError(f"the cluster at {url} has no token: anyone who reaches {hosts} can run code on it. {_FIX}")


def refuse_credentials(words: Iterable[str]) -> None:
    """Refuse a command line with a credential: a cluster shows those of its drivers and jobs.

    Raises:
        ConfigError: there is one; the message does not repeat it.
    """
    for number, word in enumerate(words, 1):
        if kind := find_credential(word):
            raise ConfigError(f"argument {number} holds {kind}. {USE_NODES}")


def _other_hosts(hosts: Iterable[str]) -> str:
    return ", ".join(sorted({host for host in hosts if host and not is_loopback(host)}))


def nodes_without_token(gcs: str) -> list[str]:
    """Return the addresses of the live nodes that the head lists to a caller without a token; none where it refuses.

    Raises:
        ConfigError: it cannot be found out.
    """
    import grpc

    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        try:
            chain, key, authority = ray_internals.load_tls_files()
        except (RuntimeError, OSError) as error:
            raise ConfigError(
                f"RAY_USE_TLS is set, but: {error}. RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT name "
                "the files."
            ) from error
        channel = grpc.secure_channel(gcs, grpc.ssl_channel_credentials(authority, key, chain), options)
    else:
        channel = grpc.insecure_channel(gcs, options)
    with channel:
        try:
            return ray_internals.alive_nodes(channel, TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return []
            raise ConfigError(
                f"the Ray at {gcs}: cannot find out whether it requires a token ({error.code().name}). Try again."
            ) from error


def _get_without_token(url: str) -> requests.Response | None:
    """Return the answer to a caller without a token; ``None`` where that is refused."""
    with requests.Session() as session:  # Ray's own library, so that certificates and proxies are the same
        session.auth = lambda request: request  # no .netrc
        try:
            answer = session.get(url, timeout=TIMEOUT_S, allow_redirects=False, proxies=for_requests(url))
        except requests.RequestException as error:
            raise ConfigError(
                f"{url}: cannot find out whether it requires a token ({type(error).__name__}). Try again."
            ) from error
    if answer.status_code in (401, 403):
        return None
    if answer.is_redirect:  # Ray's client would follow it with the job, without this check
        raise ConfigError(f"{url}: redirects to {answer.headers['location']}. Give that address instead.")
    if answer.status_code != 200:
        raise ConfigError(f"{url}: cannot find out whether it requires a token (HTTP {answer.status_code}). Try again.")
    return answer
