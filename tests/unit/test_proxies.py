"""What the environment says of proxies and certificates is heeded, or named where it cannot be."""

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from derm_ray.errors import ConfigError, DermRayError
from derm_ray.proxies import certificates, is_loopback, proxy_for
from derm_ray.serving.client import Client
from derm_ray.submission.cluster import Cluster

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # fmt: skip
NOBODY = "http://127.0.0.1:9"
Ask = Callable[[str], str]


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine that refuses everything, and the request lines it has seen."""
    lines: list[str] = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            lines.append(self.requestline)
            self.send_error(502)

        do_CONNECT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", lines
        server.shutdown()


def model_of(url: str) -> str:
    """Ask for a model; return the one message."""
    with pytest.raises(DermRayError) as raised, Client(url, attempts=1) as client:
        client.model()
    return str(raised.value)


def jobs_of(url: str) -> str:
    """Ask for jobs; return the one message."""
    with pytest.raises(DermRayError) as raised:
        Cluster(url).jobs()
    return str(raised.value)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("[::1]", True), ("localhost", True), ("LocalHost.", True),
     (".".join("0000"), False), ("10.0.0.1", False), ("::", False), ("head", False)],
)  # fmt: skip
def test_what_only_this_machine_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize("ask", [model_of, jobs_of])
@pytest.mark.parametrize(
    "environment",
    [
        {"HTTP_PROXY": NOBODY},
        {"http_proxy": "http://me:hunter2@127.0.0.1:9", "NO_PROXY": "example.org"},
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
        {"HTTP_PROXY": "::nonsense", "NO_PROXY": "localhost,127.0.0.1,[::1]"},
        {"HTTP_PROXY": NOBODY, "NO_PROXY": "fd00::/8"},
        {"SSL_CERT_FILE": "/nonexistent.pem", "SSL_CERT_DIR": "/nonexistent", "REQUESTS_CA_BUNDLE": "/nonexistent.pem"},
    ],
)
def test_loopback_goes_through_no_proxy(
    asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], ask: Ask
) -> None:
    url, lines = asked
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for host in ("127.0.0.1", "localhost"):
        assert "502" in ask(url.replace("127.0.0.1", host))
    assert len(lines) == 2
    assert all(line.startswith("GET /") for line in lines)


@pytest.mark.parametrize("ask", [model_of, jobs_of])
def test_a_proxy_that_fails_is_named(asked: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, ask: Ask) -> None:
    proxy, lines = asked
    monkeypatch.setenv("HTTP_PROXY", proxy.replace("http://", "http://me:hunt@er2@"))
    message = ask("http://endpoint.example:8000")
    assert "502" in message
    assert lines
    assert lines[0].startswith("GET http://endpoint.example:8000/")
    for name, url in (("HTTP_PROXY", "http://endpoint.example:8000"), ("all_proxy", "https://endpoint.example")):
        monkeypatch.delenv("HTTP_PROXY", raising=False)
        monkeypatch.setenv(name, "http://me:hunt@er2@127.0.0.1:9")
        message = ask(url)
        assert f"through the proxy 127.0.0.1:9 of {name}" in message
        assert f"{name} and NO_PROXY" in message
        assert "er2" not in message


@pytest.mark.parametrize("ask", [model_of, jobs_of])
@pytest.mark.parametrize(
    "value", ["nonsense://x:1", "http://", "http://proxy:port", "http://[::1", "socks4://x:1", "://"]
)
def test_a_proxy_variable_that_is_no_address_is_named(monkeypatch: pytest.MonkeyPatch, value: str, ask: Ask) -> None:
    monkeypatch.setenv("HTTP_PROXY", value)
    assert ask("http://endpoint.example") == (
        "HTTP_PROXY: is not a proxy's address. Give one such as http://HOST:3128 or socks5://HOST:1080, or unset it."
    )


def test_a_socks_proxy_without_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5h://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"ALL_PROXY: a SOCKS proxy needs the package 'no_such_package'"):
        proxy_for("http://endpoint.example", "no_such_package")
    assert str(proxy_for("http://endpoint.example", "ssl")) == "the proxy 127.0.0.1:9 of ALL_PROXY"


@pytest.mark.parametrize(
    "url", ["http://a.example", "http://10.1.2.3:80", "http://[fd00::1]", "http://[2001:db8::1]:80", "http://Exact"]
)
def test_what_no_proxy_names_is_asked_without_one(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOBODY)
    assert proxy_for(url, "") is not None
    monkeypatch.setenv("NO_PROXY", "localhost, .example, 10.0.0.0/8,[2001:db8::1],fd00::/8 , exact, [::1]:8,%&/,")
    assert proxy_for(url, "") is None
    assert proxy_for("http://other.org", "") is not None
    monkeypatch.setenv("NO_PROXY", "*")
    assert proxy_for("http://other.org", "") is None


@pytest.mark.parametrize(
    ("variable", "ask"),
    [("SSL_CERT_FILE", model_of), ("SSL_CERT_DIR", model_of), ("REQUESTS_CA_BUNDLE", jobs_of), ("CURL_CA_BUNDLE", jobs_of)],
)  # fmt: skip
def test_certificates_that_cannot_be_read_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, ask: Ask
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pem").write_text("hello")
    for path in ("/nonexistent.pem", f"{tmp_path}/empty", f"{tmp_path}/text.pem"):
        monkeypatch.setenv(variable, path)
        message = ask("https://127.0.0.1:9")
        assert message.startswith(f"{variable}={path}: no certificates can be read from it (")
        assert message.endswith("Name a PEM file of trusted certificates, or unset it.")


def test_certificates_that_can_be_read_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import certifi

    assert certificates("SSL_CERT_FILE", "SSL_CERT_DIR") is None
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert certificates("SSL_CERT_FILE", "SSL_CERT_DIR") == "SSL_CERT_FILE"
    assert "the certificates of SSL_CERT_FILE" in model_of("https://127.0.0.1:9")
