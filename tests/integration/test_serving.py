"""The endpoint on a real Ray Serve."""

import concurrent.futures
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.errors import ServingError
from derm_ray.serving.deployment import endpoint
from derm_ray.storage import read_bytes

pytestmark = pytest.mark.ray


def test_many_at_once_and_one_bad_image_among_them(
    ray_local: None, bundle_uri: str, pairs: Manifest, free_port: int
) -> None:
    uploads = [
        {"clinical": read_bytes(str(p.clinical_uri)), "dermoscopy": read_bytes(str(p.dermoscopy_uri))}
        for p in pairs.pairs()[:20]
    ]
    uploads[7]["clinical"] = b"not an image"
    with endpoint(bundle_uri, engine="torch", port=free_port) as url, concurrent.futures.ThreadPoolExecutor(20) as pool:
        alone = httpx.post(f"{url}/v1/score", files=uploads[0], timeout=180).json()
        answers = list(pool.map(lambda files: httpx.post(f"{url}/v1/score", files=files, timeout=180), uploads))
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        assert httpx.get(f"{url}/v1/model").json()["engine"] == "torch"
    assert [answer.status_code for answer in answers] == [200] * 7 + [422] + [200] * 12
    assert answers[0].json()["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_an_address_in_use_is_one_message(bundle_uri: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with (
            pytest.raises(ServingError, match="Choose another --host or --port"),
            endpoint(bundle_uri, port=taken.getsockname()[1]),
        ):
            pass


def test_the_command_serves_until_it_is_told_to_stop(bundle_uri: str, free_port: int, tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "derm-ray"), "serve", "--model", bundle_uri, "--port", str(free_port)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert f"listening on http://127.0.0.1:{free_port}" in line
        assert httpx.get(f"http://127.0.0.1:{free_port}/healthz", timeout=120).status_code == 200
        started = time.perf_counter()
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=180) == 0
        assert time.perf_counter() - started < 90
