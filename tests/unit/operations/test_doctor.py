"""Each finding, and its fix, on a machine that is made to have it."""

import http.server
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
import torch

from derm_ray import ray_internals, storage
from derm_ray.operations.doctor import access, cluster, machine, storage_checks
from derm_ray.operations.doctor.finding import Finding
from tests.conftest import unused_port


def only(findings: Iterator[Finding], subject: str) -> Finding:
    (found,) = [finding for finding in findings if finding.subject == subject]
    return found


def test_what_is_installed_fits_what_is_asked_for() -> None:
    (found,) = machine.packages()
    assert re.fullmatch(r"ray 2\.60\.\S+, torch \S+, torchvision \S+, pyarrow \S+, \d+ more, as required", found.found)
    assert not found.fix


def test_packages_that_are_missing_or_of_another_version_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["ray[data]==2.59.*", "no-such-package>=1", "openvino>=1; extra == 'openvino'"]
    monkeypatch.setattr(machine, "requires", lambda name: wanted)
    wrong, missing, rest = machine.packages()
    assert rest.found == "0 more, as required"
    assert (wrong.fix, missing.found, missing.fix) == (
        "pip install 'ray[data]==2.59.*'", "missing", "pip install 'no-such-package>=1'"
    )  # fmt: skip


def test_too_little_space_has_a_fix() -> None:
    assert machine.check_free("disk", 3 << 30, 5 << 30, "free some") == Finding("disk", "3.0 GiB free", "free some")
    assert machine.check_free("disk", 5 << 30, 5 << 30, "free some").fix == ""


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_working_folder_is_reported_and_left_as_it_was(where: str, tmp_path: Path, s3: str) -> None:
    uri = str(tmp_path) if where == "local" else f"{s3}/doctor"
    found = list(storage_checks.check_storage(uri))
    assert [finding.fix for finding in found] == ["", ""]
    assert found[0].found == "can be read, written, listed and created exclusively"
    assert found[1] == Finding(f"clock of {uri}", "agrees with this machine's")
    assert storage.list_folder(uri) == []


def test_a_folder_that_cannot_be_used_says_why(tmp_path: Path, s3: str) -> None:
    (tmp_path / "file").write_text("x")
    (found,) = storage_checks.check_storage(str(tmp_path / "file"))
    assert (found.found, bool(found.fix)) == ("a run cannot work there", True)
    (found,) = storage_checks.check_storage("s3://no-such-bucket/x")
    assert "no-such-bucket" in found.fix


def test_a_folder_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    assert list(storage_checks.check_storage(str(tmp_path / "share/runs"))) == [
        Finding(str(tmp_path / "share/runs"), "no such folder", "create it, or mount it")
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_node_with_gpus_wants_torch_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    for gpus, subjects in ((1, ["n torch"]), (0, [])):
        found = cluster.examine_node("n", cluster.versions(), gpus, ())
        assert [finding.subject for finding in found if "torch" in finding.subject] == subjects
    assert not any("+" in version for version in cluster.versions().values()), "+cpu and +cu126 are one version"


def test_the_memory_of_a_container_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine.free_memory()
    monkeypatch.setattr(ray_internals, "available_memory", lambda: 1 << 20)
    assert machine.free_memory() == 1 << 20 < whole


def test_storage_that_overwrites_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(uri: str, data: bytes) -> bool:
        storage.write_bytes(uri, data)
        return True

    monkeypatch.setattr(storage, "create", overwrite)
    found = next(storage_checks.check_storage(str(tmp_path)))
    assert "not created exclusively" in found.found
    assert "never start two runs" in found.fix


@pytest.mark.parametrize(("hours", "said"), [(1, "3600 s apart"), (-1, "3600 s apart")])
def test_a_clock_that_is_off_is_told(hours: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "modified", lambda uri: time.time() + 3600 * hours)
    found = only(storage_checks.check_storage(str(tmp_path)), f"clock of {tmp_path}")
    assert said in found.found
    assert "NTP" in found.fix


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    return tmp_path / "token"


def test_a_token_has_to_be_there_whole_and_private(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"secrets.token_hex(32))' > {token})" in access.token().fix
    token.write_text("\n")
    assert access.token().found.endswith("empty")
    token.write_text("c2VjcmV0")
    token.chmod(0o644)
    assert access.token().fix == f"chmod 600 {token}"
    token.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert access.token() == Finding("Ray's token", str(token))
    for said in ("tokne", ""):  # Ray takes an empty one for no token
        monkeypatch.setenv("RAY_AUTH_MODE", said)
        assert access.token().fix == "set RAY_AUTH_MODE=token"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert "switched off" in access.token().found


class _Jobs(http.server.BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code if self.path == "/api/jobs/" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("host", "code", "open_"),
    [("0.0.0.0", 200, True), ("0.0.0.0", 401, False), ("127.0.0.1", 200, False)],  # noqa: S104
)
def test_a_dashboard_that_lets_strangers_in_is_told(
    host: str, code: int, open_: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.ThreadingHTTPServer((host, 0), type("Handler", (_Jobs,), {"code": code})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(access, "DASHBOARD", server.server_port)
        monkeypatch.setattr(access, "PORTS", {server.server_port: "Ray's dashboard and jobs"})
        (found,) = access.ports()
        server.shutdown()
    assert str(os.getpid()) in found.found
    assert (found.fix == access.OPEN) is open_


def test_a_head_that_lets_strangers_in_is_told(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    monkeypatch.setattr(access, "PORTS", {port: "Ray's head"})
    told = list(access.ports())
    assert told, "the head listens"
    assert all("gcs_server" in finding.found and finding.fix == access.OPEN for finding in told)


def test_ports_that_only_the_superuser_may_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: str) -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refused)
    (found,) = access.ports()
    assert "sudo derm-ray doctor" in found.found


def test_a_cluster_and_a_folder_that_are_not_there_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/nowhere")
    done = subprocess.run(
        [sys.executable, "-m", "derm_ray", "doctor", "--address", f"127.0.0.1:{unused_port()}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    assert "RAY_TMPDIR=/nowhere: no such folder. Set RAY_TMPDIR to a folder that exists" in done.stdout
    assert "cannot join the Ray at '127.0.0.1:" in done.stdout


def test_folders_that_ray_cannot_use_are_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", "/no/such")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    found = only(machine.session(), "Ray's session")
    assert (found.found, bool(found.fix)) == ("in /tmp, since TMPDIR=/no/such: no such folder", True)
    assert access.token().found.startswith(f"HOME={tmp_path}/file: not writable (Not a directory)")
    assert access.token().fix == ""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "RAY_AUTH_TOKEN_PATH" in access.token().fix
    monkeypatch.delenv("HOME")
    assert access.token().found.startswith("HOME is not set")


def test_every_node_of_a_cluster_is_asked(ray_local: None, tmp_path: Path) -> None:
    found = list(cluster.cluster("auto", (str(tmp_path), str(tmp_path / "share"))))
    assert found[0].found.startswith("1 node, 4 CPUs")
    node = f"node {ray.util.get_node_ip_address()}"
    told = {finding.subject: finding.found for finding in found}
    assert told[node] == "the same versions as here"
    assert told[f"{node} clock"] == "agrees with this machine's"
    assert told[f"{node} {tmp_path}"] == "can be read, written, listed and created exclusively"
    assert only(iter(found), f"{node} {tmp_path}/share").fix == "create it, or mount it"
    assert ray.is_initialized()


def test_a_node_of_other_versions_is_told(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cluster.versions()["derm_ray"]
    monkeypatch.setattr(cluster, "__version__", "9.9.9")  # here, not in the node's worker
    found = list(cluster.cluster("auto"))
    assert f"derm_ray {here} (here 9.9.9)" in found[1].found
    assert "one image" in found[1].fix
