"""Models and replicas come and go under load."""

import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import dropwhile, islice
from pathlib import Path

import httpx
import psutil
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import MILK10K
from derm_ray.errors import DermRayError
from derm_ray.models.factory import NetworkConfig
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.endpoint import Endpoint, configured_endpoint, endpoint
from derm_ray.serving.tokens import new_token
from derm_ray.storage import read_bytes
from tests.conftest import RunCommand, running, seal_untrained

pytestmark = pytest.mark.ray
CALLERS, RATE = 4, 1000


@dataclass
class Load:
    """Answers to callers that ask one after the other, without a pause."""

    answers: list[httpx.Response] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def since(self, count: int) -> list[httpx.Response]:
        return self.answers[count:]

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, Counter(answer.status_code for answer in self.answers)
            time.sleep(0.02)


def bearer(token: str | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


@contextmanager
def load(url: str, pairs: Manifest, token: str | None = None) -> Iterator[Load]:
    pair, seen, ended = pairs.pairs()[0], Load(), threading.Event()
    files = {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}

    def ask() -> None:
        with httpx.Client(timeout=60, headers=bearer(token)) as client:
            while not ended.is_set():
                try:
                    seen.answers.append(client.post(f"{url}/v1/score", files=files))
                except httpx.HTTPError as error:
                    seen.errors.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def replicas(kind: str) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"ServeReplica:derm_ray:{kind}" in " ".join(process.info["cmdline"] or ())
        and any(parent.pid == os.getpid() for parent in process.parents())
    ]


def check_swap(served: Endpoint, uri: str, pairs: Manifest) -> None:
    """Exchange the bundle for one of another input size and other classes, under load."""
    first = load_bundle(uri)
    with load(served.url, pairs) as seen:
        seen.wait_for(8)
        shutil.rmtree(uri)
        seal_untrained(uri, NetworkConfig(trunk="tiny", classes=len(MILK10K.class_names)), label_set=MILK10K, size=64)
        second = load_bundle(uri)
        served.update()
        updated = len(seen.answers) + CALLERS  # those under way may still be the first model's
        seen.wait_for(12)
    assert seen.errors == []
    assert {answer.status_code for answer in seen.answers} == {200}
    classes = {bundle.model_digest: set(bundle.label_set.class_names) for bundle in (first, second)}
    for answer in seen.answers:
        assert set(answer.json()["probabilities"]) == classes[answer.headers["x-model-digest"]]
        assert answer.json()["model_digest"] == answer.headers["x-model-digest"]
    assert seen.answers[0].headers["x-model-digest"] == first.model_digest
    assert {answer.headers["x-model-digest"] for answer in seen.since(updated)} == {second.model_digest}


def test_a_model_takes_over_without_a_failed_request(
    ray_local: None, tmp_path: Path, pairs: Manifest, free_port: int
) -> None:
    uri = seal_untrained(str(tmp_path / "bundle"), NetworkConfig(trunk="tiny"))
    with endpoint(ServeArguments(model=uri, engine="torch", rate=RATE), port=free_port) as served:
        check_swap(served, uri, pairs)
        (tmp_path / "bundle" / "weights.safetensors").write_bytes(b"broken")
        with load(served.url, pairs) as seen:
            with pytest.raises(DermRayError, match="weights"):
                served.update()
            seen.wait_for(4)
    assert {answer.status_code for answer in seen.answers} == {200}


@pytest.mark.slow
def test_a_config_file_is_served_and_updated_by_what_lies_there(
    ray_local: None, tmp_path: Path, pairs: Manifest, free_port: int
) -> None:
    uri = seal_untrained(str(tmp_path / "bundle"), NetworkConfig(trunk="tiny"))
    other = seal_untrained(str(tmp_path / "other"), NetworkConfig(trunk="tiny"), seed=1)
    (revoked, first), (secret, second) = new_token("revoked"), new_token("kept")
    tokens, config = tmp_path / "tokens", tmp_path / "serve.yaml"
    tokens.write_text(f"{first}\n{second}\n")
    config.write_text(f"""
http_options: {{host: "::1", port: {free_port}}}
applications:
  - name: derm_ray
    route_prefix: /
    import_path: derm_ray.serving.deployment:application
    args: {{model: {uri}, engine: torch, tokens: {tokens}, rate: {RATE}}}
    deployments:
      - {{name: ModelReplica, max_ongoing_requests: 20}}
""")

    def digests(token: str) -> set[object]:
        asked = [httpx.get(f"{served.url}/v1/model", headers=bearer(token)) for _ in range(8)]
        return {answer.json().get("model_digest", answer.status_code) for answer in asked}

    with configured_endpoint(str(config)) as served:
        assert served.url == f"http://[::1]:{free_port}"
        before = load_bundle(uri).model_digest
        assert digests(revoked) == digests(secret) == {before}
        with load(served.url, pairs, secret) as seen:
            seen.wait_for(4)
            config.write_text(config.read_text().replace(uri, other))
            served.update()
            seen.wait_for(8)
        assert (seen.errors, {answer.status_code for answer in seen.answers}) == ([], {200})
        assert seen.answers[-1].headers["x-model-digest"] == load_bundle(other).model_digest
        shutil.rmtree(other)
        seal_untrained(other, NetworkConfig(trunk="tiny"), seed=2)
        tokens.write_text(f"{second}\n")
        served.update()
        assert (digests(revoked), digests(secret)) == ({401}, {load_bundle(other).model_digest})


@pytest.mark.timeout(400)
@pytest.mark.slow
def test_the_command_rolls_out_at_sighup(tmp_path: Path, pairs: Manifest, free_port: int, derm_ray: RunCommand) -> None:
    first = seal_untrained(str(tmp_path / "first"), NetworkConfig(trunk="tiny"))
    second = seal_untrained(str(tmp_path / "second"), NetworkConfig(trunk="tiny"), seed=1)
    config = tmp_path / "serve.yaml"
    text = f"""
http_options: {{host: 127.0.0.1, port: {free_port}}}
applications:
  - {{name: lesions, route_prefix: /lesions, import_path: "derm_ray.serving.deployment:application",
     args: {{model: {first}, engine: torch, insecure: true, rate: {RATE}}}}}
"""
    config.write_text(text)
    refused = derm_ray("serve", "--config", "serve.yaml", "--port", "80", "--insecure")
    assert (refused.returncode, refused.stderr) == (
        2, "error: --insecure, --port cannot be used with --config. Set it in the file.\n",
    )  # fmt: skip
    with running("serve", "--config", "serve.yaml", cwd=tmp_path) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        assert server.stdout.readline() == f"listening on http://127.0.0.1:{free_port}/lesions: open it in a browser.\n"
        assert "Ctrl-C" in server.stdout.readline()
        url = f"http://127.0.0.1:{free_port}/lesions"
        page = httpx.get(url, follow_redirects=True)
        assert (page.status_code, str(page.url)) == (200, f"{url}/"), "relative addresses of the page start there"
        for path in ("static/page.js", "healthz", "readyz", "openapi.json", "v1/model"):
            assert httpx.get(f"{url}/{path}").status_code == 200
        with load(url, pairs) as seen:
            config.write_text(text.replace("model:", "modle:"))
            server.send_signal(signal.SIGHUP)
            lines = (
                line.strip() for line in iter(server.stderr.readline, "")
            )  # others tell of the bundle, which knows no training data
            told = list(islice(dropwhile(lambda line: not line.startswith("the update failed"), lines), 3))
            assert told[0].startswith(
                "the update failed; still serving the previous model: serve.yaml cannot be served"
            )
            assert told[2] == "applications.0.args.modle: Extra inputs are not permitted"
            config.write_text(text.replace(first, second))
            server.send_signal(signal.SIGHUP)
            assert server.stdout.readline() == "updated\n"
            seen.wait_for(8)
            config.write_text(text.replace("rate:", "cpus: 64, rate:"))  # for which there is no room
            server.send_signal(signal.SIGHUP)
            seen.wait_for(40)
        begun = time.monotonic()
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate(timeout=120)
    assert (server.returncode, out) == (0, "update canceled\nstopping\n"), err
    assert time.monotonic() - begun < 60
    assert (seen.errors, {answer.status_code for answer in seen.answers}) == ([], {200})
    assert seen.answers[0].headers["x-model-digest"] == load_bundle(first).model_digest
    assert seen.answers[-1].headers["x-model-digest"] == load_bundle(second).model_digest


@pytest.mark.slow
def test_a_killed_replica_costs_the_requests_it_had(
    ray_local: None, bundle_uri: str, pairs: Manifest, free_port: int
) -> None:
    with (
        endpoint(ServeArguments(model=bundle_uri, engine="torch", replicas=2, rate=RATE), port=free_port) as served,
        load(served.url, pairs) as seen,
    ):
        seen.wait_for(8)
        before = replicas("ModelReplica")
        assert len(before) == 2
        os.kill(before[0].pid, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while len(replicas("ModelReplica")) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        seen.wait_for(8)
    assert seen.errors == []
    failed = [answer for answer in seen.answers if answer.status_code != 200]
    assert len(failed) <= CALLERS
    assert {(answer.status_code, answer.json()["code"]) for answer in failed} <= {(503, "replica_lost")}
