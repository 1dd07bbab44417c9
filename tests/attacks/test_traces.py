"""What callers send leaves no trace."""

import io
import json
import secrets
import time
from base64 import b64encode
from pathlib import Path

import httpx
import pytest
import ray
from PIL import Image

from tests.attacks.conftest import Target

pytestmark = pytest.mark.ray


def marked_photo(photo: bytes, marker: str) -> bytes:
    """The photo with the marker in its EXIF data and its comment."""
    image, exif, sink = Image.open(io.BytesIO(photo)), Image.Exif(), io.BytesIO()
    exif[0x010E], exif[0x013B], exif[0x9286] = marker, marker, marker
    image.save(sink, "JPEG", exif=exif, comment=marker.encode())
    assert marker.encode() in sink.getvalue()
    return sink.getvalue()


def test_nothing_of_a_caller_s_is_kept(target: Target) -> None:
    marker = f"marker{secrets.token_hex(12)}"
    photo = marked_photo(target.files["clinical"], marker)
    broken, named = photo[: len(photo) // 2], f"{marker}.jpg"
    headers = {"x-request-id": marker, "user-agent": marker, "cookie": marker, "referer": f"http://{marker}/",
               "x-forwarded-for": marker, "traceparent": marker, marker: marker}  # fmt: skip
    id_of = {"data": {"pair_id": marker}, "headers": headers}
    good = target.ask(files={"clinical": (named, photo)}, **id_of)
    assert (good.status_code, good.json().pop("pair_id")) == (200, marker)
    assert good.text.count(marker) == 1
    batch = {"pair_id": marker, "clinical": b64encode(broken).decode()}
    answers = [
        target.ask(files={"clinical": (named, broken, marker)}, **id_of),
        target.ask(files={"clinical": (named, marker.encode())}, **id_of),
        target.ask(files={marker: (named, photo)}, **id_of),
        target.ask(f"/v1/score?{marker}={marker}", files={"clinical": (named, photo)}, **id_of),
        target.ask(files={"clinical": photo}, data={"saliency": marker}, headers=headers),
        target.ask(files={"clinical": photo}, data={"pair_id": marker * 20}, headers=headers),
        target.ask(content=photo, headers=headers | {"content-type": f"multipart/form-data; boundary={marker}"}),
        target.ask(content=photo, headers=headers | {"content-type": marker}),
        target.ask("/v1/score-batch", json={"pairs": [batch | {marker: marker}]}, headers=headers),
        target.ask("/v1/score-batch", json={marker: [marker]}, headers=headers),
        target.ask("/v1/score-batch", json={"pairs": [{"clinical": f"{marker}!"}]}, headers=headers),
        target.ask("/v1/score-batch", content=f'{{"pairs": "{marker}', headers=headers | {"content-type": "application/json"}),
        target.ask(f"/v1/{marker}?{marker}", headers=headers),
        target.ask(f"/{marker}/v1/score", files={"clinical": photo}, **id_of),
        httpx.request(marker.upper(), f"{target.url}/v1/score", headers=headers | target.bearer),
        httpx.get(f"{target.url}/v1/model", headers={"authorization": f"Bearer {marker}"}),
        httpx.get(f"{target.url}/static/{marker}"),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code >= 400, answer.text
        assert marker.lower() not in (answer.text + str(answer.headers)).lower(), answer.text
    parts = target.ask("/v1/score-batch", json={"pairs": [batch]}, headers=headers).json()["results"]
    assert parts[0]["pair_id"] == marker
    assert marker not in json.dumps(parts[0]["problem"])

    time.sleep(6)  # until metrics are exported and logs are written
    assert _hits(marker) == []


def _hits(marker: str) -> list[str]:
    """Return the log files and metrics that hold a text; both must be there at all."""
    logs = Path(ray._private.worker._global_node.get_session_dir_path()) / "logs"
    files = [file for file in logs.rglob("*") if file.is_file()]
    assert any(b'"route": "/v1/score", "status": 200' in file.read_bytes() for file in files)
    (node,) = ray.nodes()
    metrics = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics").text.lower()
    assert "derm_ray_requests_total" in metrics
    found = [str(file) for file in files if marker.encode() in file.read_bytes().lower()]
    return found + ["metrics"] * (marker.lower() in metrics)
