"""No field, parameter or key of a request is ignored."""

import textwrap
from base64 import b64encode, encodebytes, urlsafe_b64encode

import pytest

from tests.unit.serving.conftest import Client


def test_few_invalid_fields_are_named(client: Client) -> None:
    pair = {"clinical": 1} | {f"unknown-{number}": 1 for number in range(30)}
    detail = client("POST", "/v1/score-batch", json={"pairs": [{}, pair]}).json()["detail"]
    assert detail.startswith("pairs[1].clinical: Input should be")
    assert "; pairs[1]: unknown field 'unknown-8'. Known: pair_id, clinical, dermoscopy, patient; " in detail
    assert detail.endswith("; and 21 more.")


SCORED = "clinical, dermoscopy, pair_id, saliency, patient"


@pytest.mark.parametrize(
    ("path", "parts", "told"),
    [
        ("", ["clinical", "dermatoscopy"], f"unknown field 'dermatoscopy'. Did you mean 'dermoscopy'? Known: {SCORED}."),
        ("", ["Clinical", "dermoscopy"], f"unknown field 'Clinical'. Did you mean 'clinical'? Known: {SCORED}."),
        ("", ["CLINICAL"], f"unknown field 'CLINICAL'. Did you mean 'clinical'? Known: {SCORED}."),
        ("", ["clinical", "clinical", "dermoscopy"], "field 'clinical' is repeated. Send it once."),
        ("", ["clinical", "<b>\nx"], f"unknown field (its name is not a plain word). Known: {SCORED}."),
        ("", ["clinical", "x" * 25], f"unknown field (its name is not a plain word). Known: {SCORED}."),
        ("", ["clinical", "saliency=none", "saliency=png"], "field 'saliency' is repeated. Send it once."),
        ("", ["clinical", "a=1", "b=2"], f"unknown fields 'a', 'b'. Known: {SCORED}."),
        ("?pair_id=7&saliency=png", ["clinical"], "unknown query parameters 'pair_id', 'saliency'. This URL accepts none."),
        ("?pair_id", ["clinical"], "unknown query parameter 'pair_id'. This URL accepts none."),
    ],
)  # fmt: skip
def test_no_field_is_ignored(client: Client, files: dict[str, bytes], path: str, parts: list[str], told: str) -> None:
    sent = [
        (name, (None, value) if equals else ("a.jpg", files["clinical"]))
        for name, equals, value in (part.partition("=") for part in parts)
    ]
    response = client("POST", f"/v1/score{path}", files=sent)
    assert (response.status_code, response.json()["code"], response.json()["detail"]) == (422, "invalid_request", told)


def test_no_query_parameter_or_key_is_ignored(client: Client, files: dict[str, bytes]) -> None:
    for path in ("/healthz", "/readyz", "/v1/model"):
        assert client("GET", path).status_code == 200
        response = client("GET", f"{path}?verbose=1")
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert response.json()["detail"] == "unknown query parameter 'verbose'. This URL accepts none."
    encoded = b64encode(files["clinical"]).decode()
    headers = {"content-type": "application/json"}
    assert client("POST", "/v1/score-batch?x=1", json={"pairs": [{"clinical": encoded}]}).status_code == 422
    for body, told in (
        (f'{{"pairs": [{{"clinical": "{encoded}", "clinical": "{encoded}"}}]}}', "field 'clinical' is repeated"),
        (f'{{"pairs": [], "pairs": [{{"clinical": "{encoded}"}}]}}', "field 'pairs' is repeated"),
        ('{"pairs": [{"dermatoscopy": ""}]}', "pairs[0]: unknown field 'dermatoscopy'. Did you mean 'dermoscopy'?"),
        ('{"Pairs": [{}], "pairs": [{}]}', "the body: unknown field 'Pairs'. Did you mean 'pairs'? Known: pairs."),
        ('{"pairs": ', "the body is not valid JSON at character 10"),
    ):  # fmt: skip
        response = client("POST", "/v1/score-batch", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        assert response.json()["detail"].startswith(told)


@pytest.mark.parametrize("extra", ["", "; filename*=UTF-8''c.jpg", '; filename=""'])
@pytest.mark.parametrize("kind", ["", "Content-Type: image/jpeg\r\n", "Content-Type: text/plain; charset=utf-8\r\n"])
def test_an_image_needs_no_file_name(client: Client, files: dict[str, bytes], extra: str, kind: str) -> None:
    alone = client("POST", "/v1/score", files={"clinical": files["clinical"]}).json()
    large = files["clinical"] + bytes(2_000_000)  # more than a text field may have
    for data in (files["clinical"], large):
        head = f'--B\r\nContent-Disposition: form-data; name="clinical"{extra}\r\n{kind}\r\n'.encode()
        response = client(
            "POST",
            "/v1/score",
            content=head + data + b"\r\n--B--\r\n",
            headers={"content-type": "multipart/form-data; boundary=B"},
        )
        assert response.status_code == 200, response.text
        assert response.json()["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)


def test_text_is_not_an_image(client: Client) -> None:
    response = client("POST", "/v1/score", data={"clinical": "photo.jpg"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["detail"] == (
        "clinical: is text. Send the image as a file in multipart/form-data, such as `curl -F clinical=@FILE`."
    )
    for body in (b"", b"--B\r\n", b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n"):
        headers = {"content-type": "multipart/form-data; boundary=B"}
        broken = client("POST", "/v1/score", content=body, headers=headers)
        assert broken.status_code == 400
        assert broken.headers["content-type"] == "application/problem+json"


def test_base64_is_read_as_people_write_it(client: Client, files: dict[str, bytes]) -> None:
    data = files["clinical"]
    plain, url_safe = b64encode(data).decode(), urlsafe_b64encode(data).decode()
    assert "+" in plain or "/" in plain
    alone = client("POST", "/v1/score", files={"clinical": data}).json()["probabilities"]
    ways = [
        plain,
        plain.rstrip("="),
        encodebytes(data).decode(),
        "\r\n".join(textwrap.wrap(plain, 64)) + "\r\n",
        url_safe,
        url_safe.rstrip("="),
        f"data:image/jpeg;base64,{plain}",
        f"DATA:image/jpeg;name=a.jpg;base64,{url_safe}",
        f"data:;base64,{encodebytes(data).decode()}",
    ]
    for way in ways:
        (answer,) = client("POST", "/v1/score-batch", json={"pairs": [{"clinical": way}]}).json()["results"]
        assert answer["score"]["probabilities"] == pytest.approx(alone, abs=1e-6), way[:40]
    wrong = [
        "no base64!",
        "QUJD=QUJD",
        "Q",
        "QUJDR===",
        "data:image/jpeg,QUJD",
        "data:text/plain;base64;QUJD",
        "QUJD\0",
        "Ä",
    ]
    for way in wrong:
        response = client("POST", "/v1/score-batch", json={"pairs": [{"clinical": plain}, {"dermoscopy": way}]})
        assert (response.status_code, response.json()["detail"]) == (422, "pairs[1].dermoscopy: not valid base64.")


def test_head_is_get_without_a_body_and_other_methods_are_named(client: Client) -> None:
    for path in ("/", "/healthz", "/readyz", "/v1/model", "/openapi.json", "/static/page.js"):
        head, got = client("HEAD", path), client("GET", path)
        ours = {name: value for name, value in got.headers.items() if name != "request-id"}
        assert head.status_code == 200
        assert {name: value for name, value in head.headers.items() if name != "request-id"} == ours
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            refused = client(method, path)
            assert refused.status_code == 405
            assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}
    for path in ("/v1/score", "/v1/score-batch"):
        for method in ("GET", "HEAD", "PUT"):
            refused = client(method, path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
