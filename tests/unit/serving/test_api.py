from collections.abc import AsyncIterator

import httpx
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels
from derm_ray.inference.predictor import Predictor
from derm_ray.serving import api
from derm_ray.serving.schemas import describe_model
from derm_ray.storage import read_bytes
from derm_ray.vocabulary import Prediction


class Client:
    """Calls the application in this process, without a socket."""

    def __init__(self, app: object) -> None:
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]

    def __call__(self, method: str, path: str, **options: object) -> httpx.Response:
        import asyncio

        async def call() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://test") as client:
                return await client.request(method, path, **options)  # type: ignore[arg-type]

        return asyncio.run(call())


@pytest.fixture(scope="module")
def client(bundle_uri: str) -> Client:
    bundle = load_bundle(bundle_uri)
    predictor = Predictor(bundle, "torch")

    async def score(pair: PairPixels) -> Prediction:
        if pair.modality == "dermoscopy":
            raise RuntimeError("secret path /home/someone")
        return predictor.predict([pair])[0]

    return Client(api.create_app(score, describe_model(bundle, "torch"), bundle.preprocessing))


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
    assert set(body["branches"]) == {"clinical", "dermoscopy", "cross"}
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
        response = client("POST", "/v1/score", files=upload or {"other": b"x"})
        assert (response.status_code, response.json()["code"]) == (status, code), response.text
        assert response.headers["content-type"] == "application/problem+json"
    monkeypatch.setattr(api, "MAX_IMAGE_BYTES", 100)
    assert client("POST", "/v1/score", files=files).json()["code"] == "too_large"
    assert client("GET", "/v1/nothing").status_code == 404


def test_a_body_that_is_too_large_is_refused_before_it_is_read(
    client: Client, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MAX_BODY_BYTES", 2000)
    declared = client("POST", "/v1/score", files=files)
    assert (declared.status_code, declared.json()["code"]) == (413, "too_large")

    async def drip() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="clinical"; filename="a.jpg"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100

    streamed = client("POST", "/v1/score", content=drip(), headers={"content-type": "multipart/form-data; boundary=x"})
    assert streamed.status_code == 413


def test_an_unexpected_error_tells_nothing_of_the_inside(client: Client, files: dict[str, bytes]) -> None:
    response = client("POST", "/v1/score", files={"dermoscopy": files["dermoscopy"]})
    assert response.status_code == 500
    assert "secret" not in response.text


def test_the_model_and_the_schema_are_told(client: Client, bundle_uri: str) -> None:
    assert client("GET", "/v1/model").json()["model_digest"] == load_bundle(bundle_uri).model_digest
    assert client("GET", "/healthz").json() == {"status": "ok"}
    schema = client("GET", "/openapi.json").json()
    assert schema["openapi"].startswith("3.1")
    assert "/v1/score" in schema["paths"]
