"""Secrets of a cluster and its users turn up in no log, no job's metadata, no state and no command line."""

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from derm_ray.data.manifest import Manifest, write_manifest
from tests.security.conftest import MARKERS
from tests.security.network import TOKEN, Head, Machine

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SIGNED = "http://127.0.0.1:9/lesion.jpg?X-Amz-Credential=marker-credential-Aa1b2&X-Amz-Signature=marker-signature-Cc3d4"
SECRETS = (TOKEN, *MARKERS.values(), "marker-credential-Aa1b2", "marker-signature-Cc3d4")
SHOWN = (
    "/api/jobs/",
    "/api/v0/actors?detail=True",
    "/api/v0/tasks?detail=True",
    "/api/v0/workers?detail=True",
    "/api/v0/runtime_envs?detail=True",
    "/api/v0/nodes?detail=True",
    "/api/serve/applications/",
    "/nodes?view=summary",
)


class CommandLines(threading.Thread):
    """Collects what ``ps`` shows of a machine's processes while something runs."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(daemon=True)
        self._machine = machine
        self.seen: set[str] = set()
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(0.2):
            for pid in self._machine.pids():
                with suppress(psutil.NoSuchProcess):
                    self.seen.add(" ".join(psutil.Process(pid).cmdline()))

    def __enter__(self) -> "CommandLines":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def leaks(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def test_a_job_leaves_no_secret_behind(guarded: Head, bundle_uri: str, pairs: Manifest, tmp_path: Path) -> None:
    absolute = pairs.absolute()
    table = absolute.table.slice(0, 40)
    column = table.schema.get_field_index("clinical_uri")
    table = table.set_column(column, "clinical_uri", [[SIGNED, *table["clinical_uri"].to_pylist()[1:]]])
    uri = str(tmp_path / "m.parquet")
    write_manifest(Manifest(table, uri), uri)
    out = tmp_path / "scores"
    arguments = ("--model", bundle_uri, "--input", uri, "--engine", "torch", "--out")
    submit = ("submit", "score", "--wait", "--address", guarded.jobs, "--env", "AWS_PROFILE=clinic", "--", *arguments)
    with CommandLines(guarded.machine) as ps:
        allowed = ("--allow-prefix", "http://127.0.0.1:9/", "--allow-prefix", str(Path(absolute.uri).parent))
        done = guarded.derm_ray(*submit, str(out), *allowed)
        assert done.returncode == 0, done.stdout + done.stderr
        failed = guarded.derm_ray(*submit, str(tmp_path / "refused"))
        assert failed.returncode == 2, failed.stdout
        assert "?X-Amz-Credential=***&X-Amz-Signature=*** scheme 'http' is not allowed" in failed.stdout
        time.sleep(1)
    assert json.loads((out / "_SUCCESS.json").read_text())["errors"] == 1
    assert any("derm_ray score" in line for line in ps.seen)
    assert {line: found for line in ps.seen if (found := leaks(line))} == {}
    assert leaks(done.stdout + done.stderr + failed.stdout + failed.stderr) == []

    bearer = ("-H", f"Authorization: Bearer {TOKEN}")
    for path in SHOWN:
        status, body = guarded.machine.curl(guarded.jobs + path, *bearer)
        assert status == 200, (path, status, body)
        assert (path, leaks(body)) == (path, [])
    assert "AWS_PROFILE" in guarded.machine.curl(f"{guarded.jobs}/api/jobs/", *bearer)[1]  # which is where it would be

    files = [file for file in guarded.temp.rglob("*") if file.is_file() and not file.is_symlink()]
    assert any("job-driver-score" in file.name for file in files)
    found = {str(file): told for file in files if (told := leaks(file.read_bytes().decode(errors="replace")))}
    assert found == {}
