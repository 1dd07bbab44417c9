"""The application in this process, with a real model."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels
from derm_ray.domain import Prediction
from derm_ray.serving import api
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.model import ServedModel
from derm_ray.serving.problems import ApiError
from derm_ray.serving.recorder import Recorder
from derm_ray.storage import read_bytes


class Client:
    """Calls the application in this process, without a socket."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self._transport = httpx.ASGITransport(app, raise_app_exceptions=False)

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
