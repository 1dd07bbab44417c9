"""Ray's own TLS: what it encrypts, and what it does not."""

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import running
from tests.security.network import AGENT, DASHBOARD, GCS, METRICS, TOKEN, Head, Machine, head, wire
from tests.security.test_strangers import METHODS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ASK = """
import grpc, json, sys
address, method, token, *files = json.loads(sys.argv[1])
read = lambda name: open(name, "rb").read() if name else None
authority, key, chain = map(read, files or (None, None, None))
options = [("grpc.enable_http_proxy", 0)]
channel = (
    grpc.secure_channel(address, grpc.ssl_channel_credentials(authority, key, chain), options)
    if files else grpc.insecure_channel(address, options)
)
with channel:
    try:
        metadata = [("authorization", "Bearer " + token)] if token else []
        channel.unary_unary(method)(b"", timeout=20, metadata=metadata)
        print("OK")
    except grpc.RpcError as error:
        print(error.code().name)
"""


def certificates(folder: Path, *machines: Machine) -> dict[str, str]:
    """Make an authority and one certificate for these machines; return Ray's variables."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=test authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
    )
    names = ",".join(["DNS:localhost", "IP:127.0.0.1", *(f"IP:{machine.address}" for machine in machines)])
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=node", "-keyout", "node.key", "-out", "node.csr")
    (folder / "names").write_text(f"subjectAltName={names}\n")
    openssl(
        "x509",
        "-req",
        "-in",
        "node.csr",
        "-CA",
        "ca.crt",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "1",
        "-extfile",
        "names",
        "-out",
        "node.crt",
    )
    (folder / "token").write_text(TOKEN)
    return {
        "RAY_USE_TLS": "1",
        "RAY_TLS_CA_CERT": str(folder / "ca.crt"),
        "RAY_TLS_SERVER_CERT": str(folder / "node.crt"),
        "RAY_TLS_SERVER_KEY": str(folder / "node.key"),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
    }


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with wire() as machines:
        environment = certificates(tmp_path_factory.mktemp("tls"), *machines)
        with head(machines, environment) as started:
            yield started


def ask(head: Head, token: str, *files: str, port: int = GCS, method: str = METHODS["GCS"][0]) -> str:
    call = json.dumps([f"{head.machine.address}:{port}", f"/{method}", token, *files])
    return head.stranger.run(sys.executable, "-c", ASK, call).stdout.strip()


def test_grpc_takes_a_certificate_and_the_token(encrypted: Head) -> None:
    authority, chain, key = (
        encrypted.environment[f"RAY_TLS_{name}"] for name in ("CA_CERT", "SERVER_CERT", "SERVER_KEY")
    )
    assert ask(encrypted, TOKEN) == "UNAVAILABLE"  # in the clear
    assert ask(encrypted, TOKEN, authority, "", "") == "UNAVAILABLE"  # without a certificate of one's own
    assert ask(encrypted, "", authority, key, chain) == "UNAUTHENTICATED"
    assert ask(encrypted, TOKEN, authority, key, chain) == "OK"


def test_no_grpc_server_speaks_in_the_clear(encrypted: Head) -> None:
    found = {(one.role, one.port) for one in encrypted.machine.listeners() if one.role in METHODS}
    ports = [(role, port) for role, port in sorted(found) if port not in (METRICS, AGENT)]
    assert {role for role, _ in ports} >= {"GCS", "raylet", "agent", "Ray client server"}
    assert {
        place: ask(encrypted, TOKEN, port=place[1], method=METHODS[place[0]][0]) for place in ports
    } == dict.fromkeys(ports, "UNAVAILABLE")


def test_http_stays_in_the_clear(encrypted: Head) -> None:
    assert encrypted.stranger.curl(f"{encrypted.jobs}/api/version", "-H", f"Authorization: Bearer {TOKEN}")[0] == 200
    assert encrypted.stranger.curl(f"http://{encrypted.machine.address}:{METRICS}/")[0] == 200


def test_a_command_works_on_it(encrypted: Head, bundle_uri: str, manifest: str, tmp_path: Path) -> None:
    arguments = ("--model", bundle_uri, "--input", manifest, "--out", str(tmp_path / "a"), "--engine", "torch")
    done = encrypted.derm_ray("score", *arguments, "--address", f"127.0.0.1:{GCS}")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a/_SUCCESS.json").read_text())["scored"] == 60
    listed = encrypted.derm_ray("jobs", "list", "--json", "--address", f"http://127.0.0.1:{DASHBOARD}")
    assert json.loads(listed.stdout) == {"jobs": []}, listed.stderr


def test_a_config_file_lets_the_endpoint_speak_https(bundle_uri: str, free_port: int, tmp_path: Path) -> None:
    certificates(tmp_path)
    (tmp_path / "serve.yaml").write_text(
        f"""
http_options: {{host: 127.0.0.1, port: {free_port}, ssl_keyfile: {tmp_path}/node.key, ssl_certfile: {tmp_path}/node.crt}}
applications:
- name: derm_ray
  route_prefix: /
  import_path: derm_ray.serving.deployment:application
  args: {{model: {bundle_uri}, engine: torch, insecure: true}}
"""
    )
    trusted = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with running("serve", "--config", "serve.yaml", cwd=tmp_path) as server:
        assert server.stdout is not None
        url = f"https://127.0.0.1:{free_port}"
        assert f"listening on {url}:" in (line := server.stdout.readline()), (
            line,
            server.stderr and server.stderr.read(),
        )
        assert httpx.get(f"{url}/readyz", verify=trusted, timeout=60).status_code == 200
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{url}/readyz", timeout=60)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"http://127.0.0.1:{free_port}/readyz", timeout=60)
