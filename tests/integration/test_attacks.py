"""What hostile callers send to a real endpoint: each gets a refusal, and nobody else notices."""

import io
import itertools
import json
import secrets
import socket
import statistics
import struct
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
import ray
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from derm_ray.data.manifest import Manifest
from derm_ray.serving.endpoint import endpoint
from derm_ray.serving.tokens import new_token, parse_tokens
from derm_ray.storage import read_bytes
from tests.conftest import unused_port

pytestmark = pytest.mark.ray
CALLERS = [new_token(f"caller-{number}") for number in range(40)]
"""So many that no test runs into the rate of one."""


@dataclass
class Target:
    """The endpoint as callers with tokens see it."""

    url: str
    files: dict[str, bytes]

    def __post_init__(self) -> None:
        self._secrets = itertools.cycle(secret for secret, _ in CALLERS)

    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {next(self._secrets)}"}

    def ask(self, path: str = "/v1/score", *, headers: dict[str, str] | None = None, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, headers=self.bearer() | (headers or {}), timeout=60, **options)

    def form(self, *parts: tuple[str, bytes]) -> httpx.Response:
        """Send a multipart form written by hand: heads and bodies of its parts."""
        body = (
            b"".join(b"--x\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--x--\r\n"
        )
        return self.ask(content=body, headers={"content-type": "multipart/form-data; boundary=x"})

    def connect(self) -> socket.socket:
        where = urlsplit(self.url)
        return socket.create_connection((str(where.hostname), where.port or 0), timeout=60)

    def p50(self, count: int) -> float:
        """Return the median seconds of a well-meant request; each of them must be answered."""
        took = []
        with httpx.Client(timeout=30) as client:
            for _ in range(count):
                begun = time.perf_counter()
                answer = client.post(f"{self.url}/v1/score", files=self.files, headers=self.bearer())
                took.append(time.perf_counter() - begun)
                assert answer.status_code == 200, answer.text
        return statistics.median(took)

    def is_well(self) -> None:
        assert self.ask(files=self.files).status_code == 200


@pytest.fixture(scope="module")
def target(ray_local: None, bundle_uri: str, pairs: Manifest) -> Iterator[Target]:
    pair = pairs.pairs()[0]
    files = {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}
    tokens = parse_tokens("\n".join(line for _, line in CALLERS), "tokens")
    with endpoint(bundle_uri, engine="torch", port=unused_port(), tokens=tokens) as served:
        yield Target(served.url, files)


def is_problem(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json()) == {"type", "title", "status", "detail", "code"}


def test_the_whole_api_keeps_its_promises_over_http(target: Target) -> None:
    contract = schemathesis.openapi.from_url(f"{target.url}/openapi.json")
    for found in contract.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=target.bearer(), excluded_checks=[positive_data_acceptance])

        check()


def test_ten_thousand_chunks_are_one_upload(target: Target) -> None:
    request = httpx.Request("POST", target.url, files=target.files)
    body, others = request.read(), []
    size = -(-len(body) // 10_000)
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    chunks += [b"\r\n"] * (10_000 - len(chunks))  # after the form's end, where it is let be
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            begun = time.perf_counter()
            target.is_well()
            others.append(time.perf_counter() - begun)

    watching = threading.Thread(target=watch)
    watching.start()
    begun = time.perf_counter()
    answer = target.ask(content=iter(chunks), headers={"content-type": request.headers["content-type"]})
    ended.set()
    watching.join()
    assert (len(chunks), answer.status_code) == (10_000, 200)
    assert time.perf_counter() - begun < 30
    assert max(others) < 10


def bomb(width: int, height: int, kind: bytes) -> bytes:
    """A few kilobytes that claim, or are, very many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    deflate = zlib.compressobj(9)
    pixels = b"".join(deflate.compress(bytes(1_000_000)) for _ in range(200)) + deflate.flush()
    parts = {
        b"pixels": b"",
        b"profile": chunk(b"iCCP", b"icc\0\0" + pixels),
        b"text": chunk(b"zTXt", b"a\0\0" + pixels),
    }
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + parts[kind] + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def replica() -> psutil.Process:
    (found,) = [p for p in psutil.process_iter(["cmdline"]) if ":ModelReplica" in " ".join(p.info["cmdline"] or ())]
    return found


@pytest.mark.parametrize(("side", "kind"), [(60_000, b"pixels"), (64, b"profile"), (64, b"text"), (8_000, b"pixels")])
def test_a_bomb_is_refused_and_takes_no_memory(target: Target, side: int, kind: bytes) -> None:
    target.is_well()
    before, data = replica().memory_info().rss, bomb(side, side, kind)
    answers = [target.ask(files={"clinical": data}) for _ in range(3)]
    for answer in answers:
        is_problem(answer, 422)
        assert answer.json()["code"] in ("too_many_pixels", "corrupt", "unsupported")
    assert replica().memory_info().rss < before + 200_000_000
    target.is_well()


def test_what_is_two_things_at_once_is_an_image_or_nothing(target: Target) -> None:
    jpeg, script = target.files["clinical"], b"<script>alert(1)</script>"
    gif = io.BytesIO()
    Image.new("P", (64, 64)).save(gif, "GIF")
    comment = b"\xff\xfe" + struct.pack(">H", len(script) + 2) + script
    for data in (jpeg + script, jpeg + b"PK\x05\x06" + bytes(18), jpeg[:2] + comment + jpeg[2:], script + jpeg,
                 gif.getvalue() + b"/*" + script, b"%PDF-1.4\n" + jpeg, b"<svg xmlns='x'>" + script + b"</svg>"):  # fmt: skip
        answer = target.ask(files={"clinical": ("a.html", data, "text/html")})
        assert answer.status_code in (200, 422), answer.text
        assert answer.headers["content-type"] in ("application/json", "application/problem+json")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script" not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "multipart/form-data"},
        {"content-type": "multipart/form-data; boundary=y"},
        {"content-type": "multipart/form-data; boundary=" + "x" * 5000},
        {"content-type": "application/json"},
        {"content-type": "image/jpeg"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "text/plain; charset=utf-7"},
        {"content-type": "multipart/form-data; boundary=x", "content-encoding": "gzip"},
        {"content-type": "\xff/\xfe"},
        {"content-type": ""},
    ],
    ids=lambda headers: headers["content-type"][:40] or "none",
)
def test_another_content_type_is_a_problem(target: Target, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    for path in ("/v1/score", "/v1/score-batch"):
        is_problem(target.ask(path, content=target.files["clinical"], headers=encoded), 400, 422)  # type: ignore[arg-type]


def test_forms_made_to_hurt_are_problems(target: Target) -> None:
    image, field = target.files["clinical"], 'Content-Disposition: form-data; name="{}"'
    file = 'Content-Disposition: form-data; name="clinical"; filename="{}"'
    forms: dict[str, list[tuple[str, bytes]]] = {
        "a head of a megabyte": [(file.format("a" * 1_000_000), image)],
        "very many heads": [("\r\n".join([file.format("a"), *(f"x-{n}: y" for n in range(20_000))]), image)],
        "very many fields": [(field.format(n), b"") for n in range(20_000)],
        "very many files": [(file.format(n), b"") for n in range(20_000)],
        "a field of two megabytes": [(field.format("pair_id"), bytes(2_000_000))],
        "an id of 300 characters": [(field.format("pair_id"), b"a" * 300), (file.format("a"), image)],
        "no name": [("Content-Disposition: form-data", image)],
        "no head": [("", image)],
    }
    for name, parts in forms.items():
        begun = time.perf_counter()
        answer = target.form(*parts)
        assert time.perf_counter() - begun < 10, name
        assert answer.status_code in (400, 413, 422), (name, answer.text)
        is_problem(answer, 400, 413, 422)
    target.is_well()


def test_json_made_to_hurt_is_a_problem(target: Target) -> None:
    for text in (
        "[" * 200_000,
        '{"pairs": ' * 100_000,
        '{"pairs": [' + '{"clinical": null},' * 200_000 + "{}]}",
        '{"pairs": [{"pair_id": 1e999, "clinical": NaN}]}',
        '{"pairs": [{"clinical": "' + "=" * 1_000_000 + '"}]}',
        '{"pairs": [{"pair_id": "\\ud800", "clinical": "AA=="}]}',
        "9" * 100_000,
        "\ud800",
    ):
        begun = time.perf_counter()
        data = text.encode(errors="surrogatepass")
        answer = target.ask("/v1/score-batch", content=data, headers={"content-type": "application/json"})
        assert time.perf_counter() - begun < 10
        if answer.status_code != 200:  # a pair whose image is none has a problem of its own
            is_problem(answer, 400, 422)
    target.is_well()


def test_a_file_name_is_only_a_name(target: Target, tmp_path: Path) -> None:
    marker = f"derm-ray-{secrets.token_hex(8)}"
    names = [
        f"../../../../tmp/{marker}",
        f"/tmp/{marker}",
        f"..\\..\\{marker}",
        f"%2e%2e%2f{marker}",
        f"{marker}\0.jpg",
    ]
    for name in names:
        answer = target.form(
            (f'Content-Disposition: form-data; name="clinical"; filename="{name}"', target.files["clinical"])
        )
        assert answer.status_code in (200, 400), answer.text
        assert marker not in answer.text
    large = target.ask(files={"clinical": (f"/tmp/{marker}", bytes(5_000_000))})  # so large that it is spooled
    is_problem(large, 422)
    assert not list(Path("/tmp").glob(f"*{marker}*"))


def test_what_is_no_token_of_ours_opens_nothing(target: Target) -> None:
    secret, line = CALLERS[0]
    digest = line.split(":")[1]
    for value in ("", "Bearer", f"Bearer {digest}", f"Bearer {line}", f"Basic {secret}", secret, f"Bearer {secret}x",
                  f"Bearer {secret[:-1]}", f"Bearer {secret},{secret}", "Bearer null", "Bearer \xff\xfe", "Bearer " + "a" * 10_000):  # fmt: skip
        headers = {"authorization": value.encode("latin-1")}
        for path in (
            "/v1/score",
            "/v1/score-batch",
            "/v1/model",
            "/v1/nothing",
            "/docs",
            "/static/../v1/model",
            "//v1/model",
        ):
            answer = httpx.request("POST" if "score" in path else "GET", target.url + path, headers=headers)  # type: ignore[arg-type]
            is_problem(answer, 401)
    for path in ("/-/routes", "/-/healthz"):  # Ray Serve's own
        assert secret not in httpx.get(target.url + path).text


@contextmanager
def slow_callers(target: Target, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never end their heads, or bodies, and send a byte now and then."""
    heads = itertools.cycle(
        (
            b"POST /v1/score HTTP/1.1\r\nhost: a\r\nx-a: ",
            b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-type: multipart/form-data; boundary=x\r\n"
            b"content-length: 1000000\r\nauthorization: " + target.bearer()["Authorization"].encode() + b"\r\n\r\n--x",
            b"",
        )
    )
    ended, held = threading.Event(), [target.connect() for _ in range(count)]
    for connection, head in zip(held, heads, strict=False):
        connection.sendall(head)

    def drip() -> None:
        while not ended.wait(2):
            for connection in held:
                with suppress(OSError):
                    connection.sendall(b"a")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        yield held
    finally:
        ended.set()
        dripping.join()
        for connection in held:
            connection.close()


@pytest.mark.slow
def test_two_hundred_slow_callers_slow_nobody_else_down(target: Target) -> None:
    target.p50(20)
    alone, beside = [], []
    for _ in range(4):
        alone.append(target.p50(60))
        with slow_callers(target, 200):
            time.sleep(1)
            beside.append(target.p50(60))
    print({"alone_ms": alone, "beside_ms": beside, "ratio": statistics.median(beside) / statistics.median(alone)})
    assert statistics.median(beside) <= 1.2 * statistics.median(alone)


def test_slow_callers_are_hung_up_on(target: Target) -> None:
    with slow_callers(target, 30) as held:
        target.p50(10)
        deadline = time.monotonic() + 60
        closed = 0
        while closed < len(held) and time.monotonic() < deadline:
            time.sleep(1)
            closed = sum(_is_closed(connection) for connection in held)
    assert closed == len(held)


def _is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_a_caller_who_hangs_up_costs_nothing(target: Target) -> None:
    request = httpx.Request("POST", target.url, files=target.files)
    body = request.read()
    for share in (0.0, 0.5, 1.0):
        for _ in range(20):
            with target.connect() as connection:
                head = f"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\ncontent-type: {request.headers['content-type']}\r\nauthorization: {target.bearer()['Authorization']}\r\n\r\n"
                connection.sendall(head.encode() + body[: int(share * len(body))])
    target.is_well()


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
    good = target.ask(f"/v1/score?{marker}={marker}", files={"clinical": (named, photo)}, **id_of)
    assert (good.status_code, good.json().pop("pair_id")) == (200, marker)
    assert good.text.count(marker) == 1
    batch = {"pair_id": marker, "clinical": b64encode(broken).decode()}
    answers = [
        target.ask(files={"clinical": (named, broken, marker)}, **id_of),
        target.ask(files={"clinical": (named, marker.encode())}, **id_of),
        target.ask(files={marker: (named, photo)}, **id_of),
        target.ask(files={"clinical": photo}, data={"saliency": marker}, headers=headers),
        target.ask(files={"clinical": photo}, data={"pair_id": marker * 20}, headers=headers),
        target.ask(content=photo, headers=headers | {"content-type": f"multipart/form-data; boundary={marker}"}),
        target.ask(content=photo, headers=headers | {"content-type": marker}),
        target.ask("/v1/score-batch", json={"pairs": [batch | {marker: marker}]}, headers=headers),
        target.ask("/v1/score-batch", json={marker: [marker]}, headers=headers),
        target.ask("/v1/score-batch", json={"pairs": [{"clinical": marker}]}, headers=headers),
        target.ask("/v1/score-batch", content=f'{{"pairs": "{marker}', headers=headers | {"content-type": "application/json"}),
        target.ask(f"/v1/{marker}?{marker}", headers=headers),
        target.ask(f"/{marker}/v1/score", files={"clinical": photo}, **id_of),
        httpx.request(marker.upper(), f"{target.url}/v1/score", headers=headers | target.bearer()),
        httpx.get(f"{target.url}/v1/model", headers={"authorization": f"Bearer {marker}"}),
        httpx.get(f"{target.url}/static/{marker}"),
    ]  # fmt: skip
    for answer in answers:
        assert answer.status_code >= 400, answer.text
        assert marker.lower() not in (answer.text + str(answer.headers)).lower(), answer.text
    parts = target.ask("/v1/score-batch", json={"pairs": [batch]}, headers=headers).json()["answers"]
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
