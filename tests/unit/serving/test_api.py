import asyncio
import textwrap
from base64 import b64decode, b64encode, encodebytes, urlsafe_b64encode
from collections.abc import AsyncIterator
from io import BytesIO

import httpx
import pytest
from PIL import Image

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels
from derm_ray.domain import Prediction
from derm_ray.errors import BundleError
from derm_ray.serving import api
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.body import Limits
from derm_ray.serving.middleware import Checks
from derm_ray.serving.model import WAIT_S, ServedModel
from derm_ray.serving.problems import ApiError
from derm_ray.serving.recorder import Recorder
from derm_ray.storage import read_bytes


class Client:
    """Calls the application in this process, without a socket."""

    def __init__(self, app: object) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]

    def __call__(self, method: str, path: str, **options: object) -> httpx.Response:
        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(method, path, **options)  # type: ignore[arg-type]

        return asyncio.run(call())


class OftenBusy(ServedModel):
    """A real model that has no time for dermoscopy images."""

    async def predict(self, waiting: tuple[PairPixels, float], deadline: float) -> Prediction:
        if waiting[0].modality == "dermoscopy":
            raise ApiError(503, "busy", "The model is busy.", {"retry-after": "1"})
        return await super().predict(waiting, deadline)


def served(uri: str) -> OftenBusy:
    args = ServeArguments(model=uri, engine="torch", cpus=2)
    return OftenBusy(args, load_bundle(uri).model_digest, Recorder())


@pytest.fixture(scope="module")
def model(bundle_uri: str) -> OftenBusy:
    return served(bundle_uri)


@pytest.fixture(scope="module")
def client(model: OftenBusy) -> Client:
    return Client(api.create_app(model))


@pytest.fixture(scope="module")
def files(pairs: Manifest) -> dict[str, bytes]:
    pair = pairs.pairs()[0]
    return {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}


def test_a_pair_is_scored(client: Client, files: dict[str, bytes]) -> None:
    response = client("POST", "/v1/score", files=files, data={"pair_id": "p1"})
    assert response.status_code == 200
    body = response.json()
    assert body["pair_id"] == "p1"
    assert body["modality"] == "both"
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert set(body["per_input_predictions"]) == {"clinical", "dermoscopy", "cross"}
    assert "not a medical device" in body["notice"]


def test_one_image_is_enough(client: Client, files: dict[str, bytes]) -> None:
    response = client("POST", "/v1/score", files={"clinical": files["clinical"]})
    assert response.json()["modality"] == "clinical"


def test_problems_have_a_stable_code(client: Client, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        (400, "no_image", {}),
        (422, "not_an_image", {"clinical": b"text", "dermoscopy": files["dermoscopy"]}),
        (422, "corrupt", {"clinical": files["clinical"][:900]}),
        (422, "empty", {"clinical": b""}),
    ]
    for status, code, upload in cases:
        response = client("POST", "/v1/score", files=upload, data={"pair_id": "x"})
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert response.headers["content-type"] == "application/problem+json"
    monkeypatch.setattr(api, "MAX_IMAGE_BYTES", 100)
    assert client("POST", "/v1/score", files=files).json()["code"] == "too_large"
    assert client("GET", "/v1/nothing").status_code == 404


def test_a_busy_model_is_a_problem_that_says_when_to_come_back(client: Client, files: dict[str, bytes]) -> None:
    response = client("POST", "/v1/score", files={"dermoscopy": files["dermoscopy"]})
    assert (response.status_code, response.json()["code"], response.headers["retry-after"]) == (503, "busy", "1")
    assert client("GET", "/readyz").json() == {"status": "ready"}


def test_what_would_wait_too_long_is_refused_though_its_head_had_passed(
    model: OftenBusy, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.admission, "expected_s", lambda: WAIT_S + 2)
    with pytest.raises(ApiError) as caught:
        asyncio.run(model.score(files["clinical"], None, saliency=False))
    assert (caught.value.code, caught.value.headers) == ("busy", {"retry-after": "2"})


def test_what_cannot_be_answered_in_time_any_more_is_refused(
    model: OftenBusy, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("derm_ray.serving.model.ANSWER_S", -1.0)
    with pytest.raises(ApiError) as caught:
        asyncio.run(model.score(files["clinical"], None, saliency=False))
    assert (caught.value.code, caught.value.headers) == ("busy", {"retry-after": "1"})
    assert model.admission.expected_s() == 0, "nothing is left under way"


def test_a_batch_counts_as_its_pairs_and_is_refused_whole_where_all_are(
    model: OftenBusy, files: dict[str, bytes]
) -> None:
    client = Client(api.create_app(model, Checks(limits=Limits(per_s=0.5, burst_s=6))))
    encoded = {name: b64encode(data).decode() for name, data in files.items()}
    busy = {"dermoscopy": encoded["dermoscopy"]}
    refused = client("POST", "/v1/score-batch", json={"pairs": [busy, busy]})
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (503, "busy", "1")
    mixed = client("POST", "/v1/score-batch", json={"pairs": [busy, encoded, busy, busy]}).json()["results"]
    assert [answer["problem"] and answer["problem"]["code"] for answer in mixed] == ["busy", None, "busy", "busy"]
    late = client("POST", "/v1/score", files=files)
    assert (late.status_code, late.json()["code"]) == (429, "too_many_requests")
    assert int(late.headers["retry-after"]) >= 7


def test_few_invalid_fields_are_named(client: Client) -> None:
    pair = {"clinical": 1} | {f"unknown-{number}": 1 for number in range(30)}
    detail = client("POST", "/v1/score-batch", json={"pairs": [{}, pair]}).json()["detail"]
    assert detail.startswith("pairs[1].clinical: Input should be")
    assert "; pairs[1]: unknown field 'unknown-8'. Known: pair_id, clinical, dermoscopy; " in detail
    assert detail.endswith("; and 21 more.")


SCORED = "clinical, dermoscopy, pair_id, saliency"


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


def test_a_bad_image_of_a_batch_is_its_own_pair_s_problem(client: Client, files: dict[str, bytes]) -> None:
    good = {name: b64encode(data).decode() for name, data in files.items()}
    pairs = [{"pair_id": "a", **good}, {"clinical": b64encode(b"text").decode()}, {"pair_id": "c"}, good]
    response = client("POST", "/v1/score-batch", json={"pairs": pairs})
    assert response.status_code == 200
    answers = response.json()["results"]
    assert [answer["pair_id"] for answer in answers] == ["a", None, "c", None]
    assert [answer["problem"] and answer["problem"]["code"] for answer in answers] == [
        None, "not_an_image", "no_image", None,
    ]  # fmt: skip
    alone = client("POST", "/v1/score", files=files).json()
    # Two pairs may share a forward pass, whose last bits differ from those of one.
    inexact = ("probabilities", "task_probabilities")
    unequal = {*inexact, "confidence", "per_input_predictions", "pair_id"}
    for number, name in ((0, "a"), (3, None)):
        score = answers[number]["score"]
        assert score["pair_id"] == name
        assert all(score[key] == pytest.approx(alone[key], abs=1e-6) for key in inexact)
        assert {k: v for k, v in score.items() if k not in unequal} == {
            k: v for k, v in alone.items() if k not in unequal
        }
    for wrong in (
        {},
        {"pairs": []},
        {"pairs": [good] * 17},
        {"pairs": [{"clinical": "no base64!"}]},
        {"pairs": [{"x": 1}]},
    ):
        response = client("POST", "/v1/score-batch", json=wrong)
        assert (response.status_code, response.json().get("code")) == (422, "invalid_request"), response.text
        assert "base64!" not in response.text


def test_overlays_are_sent_where_they_are_asked_for(
    cam_bundle_uri: str, client: Client, files: dict[str, bytes]
) -> None:
    refused = client("POST", "/v1/score", files=files, data={"saliency": "png"})
    assert (refused.status_code, refused.json()["code"]) == (400, "no_saliency")
    looking = Client(api.create_app(served(cam_bundle_uri)))
    assert looking("POST", "/v1/score", files=files).json()["saliency"] == {}
    overlays = looking("POST", "/v1/score", files=files, data={"saliency": "png"}).json()["saliency"]
    assert set(overlays) == {"clinical", "dermoscopy"}
    for png in overlays.values():
        assert Image.open(BytesIO(b64decode(png))).size == (48, 48)
    alone = {"clinical": files["clinical"]}
    assert set(looking("POST", "/v1/score", files=alone, data={"saliency": "png"}).json()["saliency"]) == {"clinical"}
    wrong = looking("POST", "/v1/score", files=files, data={"saliency": "gif"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_request")


def test_answers_name_the_model_that_gave_them(client: Client, bundle_uri: str, files: dict[str, bytes]) -> None:
    digest = load_bundle(bundle_uri).model_digest
    for answer in (
        client("POST", "/v1/score", files=files),
        client("POST", "/v1/score", files={"clinical": b"text"}),
        client("GET", "/v1/model"),
    ):
        assert answer.headers["x-model-digest"] == digest
    assert "x-model-digest" not in client("GET", "/v1/nothing").headers


def test_a_bundle_that_was_exchanged_is_not_served_as_the_one_before(bundle_uri: str) -> None:
    with pytest.raises(BundleError, match="has changed while it was being served"):
        ServedModel(ServeArguments(model=bundle_uri, engine="torch"), "0" * 64, Recorder())


def test_a_body_that_is_too_large_is_refused_before_it_is_read(model: OftenBusy, files: dict[str, bytes]) -> None:
    client = Client(api.create_app(model, Checks(limits=Limits(2000))))
    declared = client("POST", "/v1/score", files=files)
    assert (declared.status_code, declared.json()["code"]) == (413, "too_large")

    async def drip() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="clinical"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100

    streamed = client("POST", "/v1/score", content=drip(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert (streamed.status_code, streamed.json()["code"]) == (413, "too_large")


def test_the_model_and_the_schema_are_told(client: Client, bundle_uri: str) -> None:
    model = client("GET", "/v1/model").json()
    assert model["model_digest"] == load_bundle(bundle_uri).model_digest
    assert model["card"] == read_bytes(f"{bundle_uri}/README.md").decode()
    assert client("GET", "/healthz").json() == {"status": "ok"}
    schema = client("GET", "/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    for path, verb in (("/v1/score", "post"), ("/v1/score-batch", "post"), ("/v1/model", "get")):
        answers = schema["paths"][path][verb]["responses"]
        assert answers["200"]["content"]["application/json"]["schema"]["$ref"].startswith("#/components/schemas/")
        for status in answers.keys() - {"200"}:
            assert answers[status]["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
    assert "Problem" in schema["components"]["schemas"]
