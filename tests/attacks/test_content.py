"""Hostile uploads: each gets a refusal, and nobody else notices."""

import io
import secrets
import struct
import threading
import time
import zlib
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from derm_ray.serving.forwarding import MAX_BYTES
from tests.attacks.conftest import Target, is_problem, replica

pytestmark = pytest.mark.ray


def test_the_whole_api_keeps_its_promises_over_http(target: Target) -> None:
    contract = schemathesis.openapi.from_url(f"{target.url}/openapi.json")
    for found in contract.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def check(case: schemathesis.Case) -> None:
            case.call_and_validate(headers=target.bearer, excluded_checks=[positive_data_acceptance])

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


@pytest.mark.parametrize(("side", "kind"), [(60_000, b"pixels"), (64, b"profile"), (64, b"text"), (8_000, b"pixels")])
def test_a_bomb_is_refused_and_takes_no_memory(target: Target, side: int, kind: bytes) -> None:
    target.is_well()
    process, data = replica(), bomb(side, side, kind)
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak begins anew
    before = process.memory_info().rss
    answers = [target.ask(files={"clinical": data}) for _ in range(3)]
    for answer in answers:
        is_problem(answer, 422)
        assert answer.json()["code"] in ("too_many_pixels", "corrupt", "unsupported")
    (peak,) = [line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line]
    assert 1000 * int(peak.split()[1]) < before + 300_000_000
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
    # Some travel with their head to the replica, some are fetched by it, and both are so large that they are spooled.
    for size in (MAX_BYTES - 1000, MAX_BYTES, 5_000_000):
        is_problem(target.ask(files={"clinical": (f"/tmp/{marker}", bytes(size))}), 422)
    assert not list(Path("/tmp").glob(f"*{marker}*"))
