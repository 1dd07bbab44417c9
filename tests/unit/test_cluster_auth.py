"""Who can use a Ray, judged by real servers on this machine."""

import http.server
import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from derm_ray.cluster_auth import (
    INSECURE_VARIABLE,
    find_home_problem,
    insecure_allowed,
    local_token,
    refuse_credentials,
    refuse_open_jobs,
    refuse_open_ray,
)
from derm_ray.errors import ConfigError
from derm_ray.proxies import is_loopback
from derm_ray.submission.request import JobRequest
from tests.conftest import unused_port

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture(autouse=True)
def _strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSECURE_VARIABLE)


class _Dashboard(http.server.BaseHTTPRequestHandler):
    """Answers as Ray's does, without a token."""

    nodes: tuple[str, ...] = ("127.0.0.1",)
    code = 200

    def do_GET(self) -> None:
        if self.code != 200:
            self.send_response(self.code)
            self.send_header("location", "https://elsewhere/api/jobs/")
            self.end_headers()
            return
        told = {
            "/api/jobs/": [],
            "/nodes?view=summary": {"data": {"summary": [{"raylet": {"nodeManagerAddress": ip}} for ip in self.nodes]}},
        }.get(self.path)
        self.send_response(404 if told is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps(told).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def dashboard(*nodes: str, code: int = 200) -> Iterator[int]:
    handler = type("Handler", (_Dashboard,), {"nodes": nodes, "code": code})
    with http.server.ThreadingHTTPServer((EVERYWHERE, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_open_jobs_are_refused_by_url_and_by_the_nodes_behind_it() -> None:
    with dashboard("127.0.0.1") as port:
        refuse_open_jobs(f"http://127.0.0.1:{port}")
        with pytest.raises(
            ConfigError,
            match=r"has no token: anyone who reaches 0\.0\.0\.0 can run code on it\. Set RAY_AUTH_MODE=token",
        ):
            refuse_open_jobs(f"http://{EVERYWHERE}:{port}")
    with (
        dashboard("127.0.0.1", "10.0.0.7") as port,
        pytest.raises(ConfigError, match=r"anyone who reaches 10\.0\.0\.7 can run"),
    ):
        refuse_open_jobs(f"http://127.0.0.1:{port}")
    with pytest.raises(ConfigError, match="cannot find out whether it requires a token"):
        refuse_open_jobs(f"http://127.0.0.1:{unused_port()}")


@pytest.mark.parametrize("code", [401, 403])
def test_jobs_that_ask_for_a_token_are_let_through(code: int) -> None:
    with dashboard(code=code) as port:
        refuse_open_jobs(f"http://{EVERYWHERE}:{port}")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (302, "redirects to https://elsewhere/api/jobs/"),
        (308, "Give that address instead"),
        (404, "HTTP 404"),
        (503, "HTTP 503"),
    ],
)
def test_what_does_not_say_that_it_asks_for_a_token_is_refused(code: int, said: str) -> None:
    """Ray's client follows a redirect, and the job with it."""
    with dashboard(code=code) as port, pytest.raises(ConfigError, match=said):
        refuse_open_jobs(f"http://127.0.0.1:{port}")


def test_tls_without_its_files_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_USE_TLS", "1")
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="RAY_TLS_SERVER_CERT, RAY_TLS_SERVER_KEY and RAY_TLS_CA_CERT name"):
        refuse_open_ray("127.0.0.1:1")
    for name in ("RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"):
        monkeypatch.setenv(name, "/nowhere.pem")
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        refuse_open_ray("127.0.0.1:1")


def test_an_open_ray_is_refused_and_one_who_insists_is_let_through(
    ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    gcs = ray.get_runtime_context().gcs_address
    host = ray.util.get_node_ip_address()
    if is_loopback(host):
        refuse_open_ray(gcs)
    else:
        with pytest.raises(ConfigError, match=rf"the Ray at {gcs} has no token: anyone who reaches {host}"):
            refuse_open_ray(gcs)
    monkeypatch.setenv(INSECURE_VARIABLE, "1")
    refuse_open_ray(gcs)


def test_who_insists_says_so_clearly_and_tells_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = JobRequest("score", ())
    assert not insecure_allowed()
    assert INSECURE_VARIABLE not in quiet.variables
    monkeypatch.setenv(INSECURE_VARIABLE, "1")
    assert insecure_allowed()
    assert quiet.variables[INSECURE_VARIABLE] == "1"
    assert quiet.id == JobRequest("score", ()).id
    monkeypatch.setenv(INSECURE_VARIABLE, "true")
    with pytest.raises(ConfigError, match="set it to 1"):
        insecure_allowed()


def test_a_command_line_with_a_credential_goes_to_no_cluster() -> None:
    refuse_credentials(["score", "--input", "s3://b/x", "--address", "auto"])
    with pytest.raises(ConfigError, match="argument 3 holds a signed URI") as refused:
        refuse_credentials(["score", "--input", "https://h/x?X-Amz-Signature=hunter2"])
    assert "hunter2" not in str(refused.value)


def test_the_token_of_a_local_ray_is_its_user_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with local_token():
        assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    file = tmp_path / ".ray" / "auth_token"
    token = file.read_text()
    assert (len(token), stat.S_IMODE(file.stat().st_mode)) == (64, 0o600)
    with local_token():
        assert file.read_text() == token
    assert [one.name for one in file.parent.iterdir()] == ["auth_token"]
    file.unlink()
    for name, value in (("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN_PATH", "/x")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            with local_token():
                assert os.environ[name] == value
        assert not file.exists()


@pytest.mark.parametrize("home", [None, "", "relative", "file", "file/below", "/nonexistent", "empty token"])
def test_a_home_that_cannot_hold_a_token_is_done_without(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty token" / ".ray").mkdir(parents=True)
    (tmp_path / "empty token" / ".ray" / "auth_token").touch()
    if home is not None:
        monkeypatch.setenv("HOME", str(tmp_path / home) if home.startswith(("file", "empty")) else home)
    with local_token():
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
        assert ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
        assert find_home_problem() or home == "empty token"
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert not Path("/nonexistent").exists()


def test_an_address_with_a_password_is_not_repeated() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "derm_ray", "jobs", "list", "--address", "http://me:hunter2@127.0.0.1:9"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: --address: holds a credential")
    assert "hunter2" not in done.stderr
