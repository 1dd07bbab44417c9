"""Who can use a Ray: its token, and whether it lets in without one who reaches it from another machine."""

import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import requests

from derm_ray.credentials import find_credential
from derm_ray.errors import ConfigError
from derm_ray.proxies import for_requests, is_loopback

INSECURE_VARIABLE = "DERM_RAY_INSECURE_CLUSTER"
"""``1`` lets commands use a Ray that anybody can use who reaches it."""
TOKEN = "RAY_AUTH_TOKEN"  # noqa: S105
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"  # noqa: S105
ANSWER_S = 30.0
_MEND = (
    "Set RAY_AUTH_MODE=token, and for a cluster RAY_AUTH_TOKEN_PATH, where Ray is started and here; or, on a network "
    f"that nobody else reaches, {INSECURE_VARIABLE}=1."
)


def insecure_allowed() -> bool:
    """Return whether the user has said that an open Ray will do.

    Raises:
        ConfigError: what was said is neither yes nor no.
    """
    said = os.environ.get(INSECURE_VARIABLE, "")
    if said not in ("", "0", "1"):
        raise ConfigError(f"{INSECURE_VARIABLE}={said}: say 1, or leave it out.")
    return said == "1"


@contextmanager
def local_token() -> Iterator[None]:
    """Run a block in which a local Ray finds a token: the one in the home folder, else one for the block alone.

    Where the home folder holds none, it is made; Ray would make it with the permissions of the umask, this one only its
    user can read. Where the home folder cannot hold one, as that of many containers, the environment of Ray's own
    processes does.
    """
    named = any(name in os.environ for name in (TOKEN, TOKEN_PATH))
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or named or _token_at_home():
        yield
        return
    import ray

    loader = ray._raylet.AuthenticationTokenLoader.instance()
    os.environ[TOKEN] = secrets.token_hex(32)
    loader.reset_cache()
    try:
        yield
    finally:
        del os.environ[TOKEN]
        loader.reset_cache()


def home_token_path() -> Path:
    """Return where Ray keeps its token unless told otherwise.

    Raises:
        ConfigError: there is no such place.
    """
    home = os.environ.get("HOME", "")  # Ray does not look into the password database
    if not os.path.isabs(home):
        raise ConfigError(f"HOME={home}: not an absolute path" if home else "HOME is not set")
    return Path(home) / ".ray" / "auth_token"


def find_home_problem() -> str:
    """Return why the home folder cannot hold Ray's token, or an empty string."""
    try:
        folder = home_token_path().parent
        with tempfile.TemporaryFile(dir=folder if folder.is_dir() else folder.parent):
            return ""
    except ConfigError as error:
        return str(error)
    except OSError as error:
        return f"HOME={folder.parent}: not writable ({error.strerror})"


def _token_at_home() -> bool:
    """Return whether Ray finds a token in the home folder, where one is made if need be."""
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
        ConfigError: other machines can use it, or it does not tell.
    """
    if insecure_allowed():
        return
    if beyond := _beyond(nodes_told_to_strangers(gcs)):
        raise ConfigError(f"the Ray at {gcs} runs what anybody sends it who reaches {beyond}: no token. {_MEND}")


def refuse_open_jobs(url: str) -> None:
    """Refuse a jobs server that answers a caller without a token, unless it and all its nodes are on loopback.

    Args:
        url: of the jobs server, which answers.

    Raises:
        ConfigError: other machines can use it, or it does not tell.
    """
    if insecure_allowed():
        return
    if _asked_by_a_stranger(f"{url}/api/jobs/") is None:
        return
    told = _asked_by_a_stranger(nodes_url := f"{url}/nodes?view=summary")
    try:
        summary = told.json()["data"]["summary"] if told is not None else {}
        nodes = [node["raylet"]["nodeManagerAddress"] for node in summary]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{nodes_url}: does not tell the cluster's nodes. Give the address of Ray's dashboard."
        ) from error
    if beyond := _beyond([urlsplit(url).hostname or "", *nodes]):
        raise ConfigError(f"the cluster at {url} runs what anybody sends it who reaches {beyond}: no token. {_MEND}")


def refuse_told_secrets(words: Iterable[str]) -> None:
    """Refuse a command line with a credential: a cluster shows those of all that work on it.

    Raises:
        ConfigError: there is one; the message does not repeat it.
    """
    for number, word in enumerate(words, 1):
        if kind := find_credential(word):
            raise ConfigError(
                f"argument {number} holds {kind}, and everyone who reaches the cluster can read the command lines of "
                "what runs there. Let the nodes have the credentials: a role, AWS_PROFILE, or a mounted secret file."
            )


def _beyond(hosts: Iterable[str]) -> str:
    return ", ".join(sorted({host for host in hosts if host and not is_loopback(host)}))


def nodes_told_to_strangers(gcs: str) -> list[str]:
    """Return the addresses of the nodes that are alive, as the head tells them to a caller without a token.

    Raises:
        ConfigError: it does not tell whether it asks for a token.
    """
    import grpc
    from ray.core.generated.gcs_pb2 import GcsNodeInfo
    from ray.core.generated.gcs_service_pb2 import GetAllNodeAddressAndLivenessRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        from ray._common.tls_utils import load_certs_from_env

        try:
            chain, key, authority = load_certs_from_env()
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
            reply = NodeInfoGcsServiceStub(channel).GetAllNodeAddressAndLiveness(
                GetAllNodeAddressAndLivenessRequest(), timeout=ANSWER_S, wait_for_ready=True
            )
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return []
            raise ConfigError(
                f"the Ray at {gcs} does not tell whether it asks for a token ({error.code().name}). Try again."
            ) from error
    return [node.node_manager_address for node in reply.node_info_list if node.state == GcsNodeInfo.ALIVE]


def _asked_by_a_stranger(url: str) -> requests.Response | None:
    """Ask as somebody without a token does; ``None`` where that is refused."""
    with requests.Session() as session:  # the library Ray asks with, so that certificates and proxies are the same
        session.auth = lambda request: request  # no .netrc
        try:
            answer = session.get(url, timeout=ANSWER_S, allow_redirects=False, proxies=for_requests(url))
        except requests.RequestException as error:
            raise ConfigError(
                f"{url}: does not tell whether it asks for a token ({type(error).__name__}). Try again."
            ) from error
    if answer.status_code in (401, 403):
        return None
    if answer.is_redirect:  # Ray's client would follow it, with the job, past this question
        raise ConfigError(f"{url}: leads to {answer.headers['location']}. Give that address itself.")
    if answer.status_code != 200:
        raise ConfigError(f"{url}: does not tell whether it asks for a token (HTTP {answer.status_code}). Try again.")
    return answer
