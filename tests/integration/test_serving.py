"""The endpoint on a real Ray Serve."""

import asyncio
import concurrent.futures
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from ray import serve

from derm_ray.bundle import load_bundle
from derm_ray.cli.score_one import score_one
from derm_ray.cli.serve import token
from derm_ray.data.manifest import Manifest
from derm_ray.domain import Modality
from derm_ray.errors import ConfigError, ServingError
from derm_ray.serving import deployment
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.client import Client
from derm_ray.serving.endpoint import endpoint
from derm_ray.serving.model import MAX_PAIRS
from derm_ray.storage import read_bytes
from tests.conftest import Served, running
from tests.load.arrivals import Request, closed_loop, open_loop

pytestmark = pytest.mark.ray

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels) -> value."""


def samples() -> list[Sample]:
    """Return the endpoints' samples among those that Ray exports."""
    (node,) = ray.nodes()
    text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics").text
    families = text_string_to_metric_families(text)
    found = [s for family in families for s in family.samples if s.name.startswith("ray_derm_ray_")]
    return [s for s in found if "replica" in s.labels]  # training's and bulk scoring's have none


@pytest.mark.slow
def test_replicas_come_under_load_and_go_after_it(
    ray_local: None, bundle_uri: str, photos: dict[str, bytes], free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"UPSCALE_DELAY_S": 1.0, "DOWNSCALE_DELAY_S": 1.0}.items():
        monkeypatch.setattr(deployment, name, value)
    codes: set[int] = set()
    ended = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=60) as client:
            while not ended.is_set():
                codes.add(client.post(f"{url}/v1/score", files=photos).status_code)

    def replicas() -> int:
        return sum(serve.status().applications["derm_ray"].deployments["ModelReplica"].replica_states.values())

    def wait_for(count: int) -> None:
        deadline = time.monotonic() + 120
        while replicas() != count:
            assert time.monotonic() < deadline, serve.status()
            time.sleep(0.2)

    arguments = ServeArguments(model=bundle_uri, engine="torch", max_replicas=2, rate=1000)
    with endpoint(arguments, port=free_port) as served:
        url = served.url
        assert replicas() == 1
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for _ in range(16):
                pool.submit(ask)
            try:
                wait_for(2)
            finally:
                ended.set()
        wait_for(1)
    assert codes == {200}


def test_ray_exports_what_is_measured(served: Served, photos: dict[str, bytes]) -> None:
    wanted = {
        ("requests_total", "route", "/v1/score", "status", "200"): 3,
        ("requests_total", "route", "/v1/score", "status", "422"): 1,
        ("requests_total", "route", "none", "status", "404"): 1,
        ("rejected_total", "status", "422"): 1,
        ("predictions_total", "modality", "both"): 2,
        ("predictions_total", "modality", "clinical"): 1,
        ("image_errors_total", "code", "not_an_image"): 1,
        ("batch_size_count",): 3,
        ("confidence_count",): 3,
        ("stage_seconds_count", "stage", "decode"): 4,
        ("stage_seconds_count", "stage", "queue"): 3,
        ("stage_seconds_count", "stage", "infer"): 3,
        ("stage_seconds_count", "stage", "encode"): 3,
        ("request_seconds_count", "route", "/v1/score"): 4,
    }

    before: Series = {}
    while before != (before := series()):
        time.sleep(2)  # until what other tests did is exported
    for upload in (photos, photos, {"clinical": photos["clinical"]}, {"clinical": b"text"}):
        httpx.post(f"{served.url}/v1/score", files=upload, headers=served.bearer, timeout=60)
    httpx.get(f"{served.url}/no/such/path/4711", headers=served.bearer)
    seen: dict[tuple[str, ...], float] = {}
    deadline = time.monotonic() + 60
    while seen != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
        risen = {key: max(0.0, value - before.get(key, 0.0)) for key, value in series().items()}
        seen = {key: sum(value for one, value in risen.items() if _is(one, *key)) for key in wanted}
    assert {key: value for key, value in seen.items() if value != wanted[key]} == {}
    ours = samples()
    assert "4711" not in str(ours)
    assert max(Counter((s.labels["replica"], s.name.removesuffix("_bucket")) for s in ours).values()) <= 200


def series() -> Series:
    """Return the counters and the counts of histograms that change with requests only."""
    return {(s.name, tuple(s.labels.items())): s.value for s in samples() if s.name.endswith(("_total", "_count"))}


def _is(one: tuple[str, tuple[tuple[str, str], ...]], name: str, *labels: str) -> bool:
    pairs = set(zip(labels[::2], labels[1::2], strict=True))
    return one[0] == f"ray_derm_ray_{name}" and pairs <= set(one[1])


def test_many_at_once_and_one_bad_image_among_them(served: Served, served_model_uri: str, pairs: Manifest) -> None:
    uploads = [
        {"clinical": read_bytes(str(p.clinical_uri)), "dermoscopy": read_bytes(str(p.dermoscopy_uri))}
        for p in pairs.pairs()[:20]
    ]
    uploads[7]["clinical"] = b"not an image"
    url, secret, bearer = served.url, served.secret, served.bearer

    def post(files: dict[str, bytes]) -> httpx.Response:
        return httpx.post(f"{url}/v1/score", files=files, headers=bearer, timeout=180)

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        alone = post(uploads[0]).json()
        answers = list(pool.map(post, uploads))
        with Client(url, secret) as client:
            batched = client.score_batch([{Modality(m): data for m, data in files.items()} for files in uploads[6:9]])
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/readyz").json() == {"status": "ready"}
        assert httpx.get(f"{url}/v1/model", headers=bearer).json()["engine"] == "torch"
        refused = httpx.get(f"{url}/v1/model")
        large = httpx.post(f"{url}/v1/score", files={"clinical": bytes(51_000_000)}, headers=bearer, timeout=180)
        upgraded = [_upgraded(url, uploads[0], secret, upgrade) for upgrade in ("h2c", "websocket")]
    assert [answer.status_code for answer in answers] == [200] * 7 + [422] + [200] * 12
    assert answers[0].json()["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)
    assert {answer.headers["x-model-digest"] for answer in answers} == {load_bundle(served_model_uri).model_digest}
    assert [answer.problem and answer.problem.code for answer in batched] == [None, "not_an_image", None]
    assert batched[0].score is not None
    assert batched[0].score.probabilities == pytest.approx(answers[6].json()["probabilities"], abs=1e-5)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert upgraded == [[200, 200]] * 2


def _upgraded(url: str, files: dict[str, bytes], secret: str, upgrade: str) -> list[int]:
    """Score with an Upgrade header, the body a moment after the head, then ask for something else; return statuses."""
    request = httpx.Request("POST", f"{url}/v1/score", files=files, headers={"authorization": f"Bearer {secret}"})
    body = request.read()
    head = "POST /v1/score HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection((request.url.host, request.url.port or 0), timeout=60) as connection:
        connection.sendall(f"{head}connection: Upgrade\r\nupgrade: {upgrade}\r\n\r\n".encode())
        time.sleep(0.2)
        connection.sendall(body + b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        got = b"".join(iter(lambda: connection.recv(65_536), b""))
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", got)]


def test_nobody_else_can_call_without_a_token_unless_that_is_said(bundle_uri: str) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):  # noqa: S104
        with (
            pytest.raises(ConfigError, match="can be reached from other machines"),
            endpoint(ServeArguments(model=bundle_uri), host=host),
        ):
            pass


def test_an_address_in_use_is_one_message(bundle_uri: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ServingError, match="Choose another --host or --port"),
            endpoint(ServeArguments(model=bundle_uri), port=taken.getsockname()[1]),
        ):
            pass


def test_the_command_serves_until_it_is_told_to_stop(
    bundle_uri: str, free_port: int, tmp_path: Path, photos: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    token("clinic")
    line, secret = capsys.readouterr()
    (tmp_path / "tokens").write_text(line)
    bearer, url = {"authorization": f"Bearer {secret.split()[-1]}"}, f"http://127.0.0.1:{free_port}"
    arguments = ("serve", "--model", bundle_uri, "--engine", "torch", "--port", str(free_port), "--tokens", "tokens")
    with running(*arguments, cwd=tmp_path) as server:
        assert server.stdout is not None
        assert f"listening on {url}: open it in a browser" in server.stdout.readline()
        assert httpx.get(f"{url}/healthz", timeout=120).status_code == 200
        assert httpx.get(f"{url}/v1/model", timeout=120).status_code == 401
        assert httpx.post(f"{url}/v1/score", files=photos, timeout=120, headers=bearer).status_code == 200
        started = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=180) == 0
        assert time.perf_counter() - started < 90


def test_one_lesion_is_scored_through_the_endpoint_as_with_the_model(
    served: Served,
    served_model_uri: str,
    pairs: Manifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pair, told = pairs.pairs()[0], []
    for where, how in (("url", {"url": served.url}), ("model", {"model": served_model_uri, "engine": "torch"})):
        monkeypatch.setenv("DERM_RAY_TOKEN", served.secret)
        score_one(pair.clinical_uri, pair.dermoscopy_uri, **how, saliency=str(tmp_path / where), as_json=True)
        told.append(json.loads(capsys.readouterr().out))
    there, here = told
    assert there["probabilities"] == pytest.approx(here["probabilities"], abs=1e-5)
    assert there["model_digest"] == here["model_digest"]
    for modality in Modality:
        assert (tmp_path / "url" / f"{modality}.png").read_bytes() == (
            tmp_path / "model" / f"{modality}.png"
        ).read_bytes()
    monkeypatch.setenv("DERM_RAY_TOKEN", "wrong")
    with pytest.raises(ServingError, match=r"\(unauthorized, status 401\)$"):
        score_one(pair.clinical_uri, pair.dermoscopy_uri, url=served.url)


def test_more_than_can_wait_is_refused_at_once_and_the_rest_is_answered(
    served: Served, photos: dict[str, bytes]
) -> None:
    prepared = httpx.Request("POST", f"{served.url}/v1/score", files=photos)
    headers = {"content-type": prepared.headers["content-type"], **served.bearer}
    request = Request(str(prepared.url), prepared.read(), headers)
    asyncio.run(closed_loop([request], 20, callers=2))
    outcome = asyncio.run(open_loop([request], [0.0] * (MAX_PAIRS + 300)))
    assert httpx.get(f"{served.url}/readyz").status_code == 200
    assert set(outcome.statuses) == {200, 503}
    assert outcome.unannounced == 0
