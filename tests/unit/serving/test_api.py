import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from io import BytesIO

import pytest
from PIL import Image

from derm_ray.bundle import load_bundle
from derm_ray.errors import BundleError
from derm_ray.serving import api
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.body import Limits
from derm_ray.serving.middleware import Checks
from derm_ray.serving.model import WAIT_S, ServedModel
from derm_ray.serving.problems import ApiError
from derm_ray.serving.recorder import Recorder
from derm_ray.storage import read_bytes
from tests.unit.serving.conftest import Client, OftenBusy, served


def test_a_pair_is_scored(client: Client, files: dict[str, bytes]) -> None:
    response = client("POST", "/v1/score", files=files, data={"pair_id": "p1"})
    assert response.status_code == 200
    body = response.json()
    assert body["pair_id"] == "p1"
    assert body["modality"] == "both"
    assert sum(body["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert set(body["per_input_predictions"]) == set(body["per_input_diagnoses"]) == {"clinical", "dermoscopy", "cross"}
    assert body["per_input_diagnoses"]["cross"] == body["diagnosis"]
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
