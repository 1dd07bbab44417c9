"""What the endpoint is measured beside: FastAPI and uvicorn with the same predictor in a thread, in one process.

``python -m tests.load.peer BUNDLE ENGINE PORT`` listens on loopback until it is stopped.
"""

import argparse
import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, File, UploadFile

from derm_ray.bundle import load_bundle
from derm_ray.data.preprocessing import pixels_from_bytes
from derm_ray.inference.predictor import Predictor
from derm_ray.runtime import machine_cpus


def create_peer(bundle_uri: str, engine: str) -> FastAPI:
    """Return the application: a form with two images in, a prediction out."""
    torch.set_num_threads(machine_cpus())
    predictor = Predictor(load_bundle(bundle_uri), engine, batch_size=1)
    thread = ThreadPoolExecutor(1)
    app = FastAPI()

    def answer(clinical: bytes, dermoscopy: bytes) -> dict[str, Any]:
        pair = pixels_from_bytes(clinical, dermoscopy, predictor.bundle.preprocessing)
        return asdict(predictor.predict([pair])[0])

    @app.post("/v1/score")
    async def score(
        clinical: Annotated[UploadFile, File()], dermoscopy: Annotated[UploadFile, File()]
    ) -> dict[str, Any]:
        images = await clinical.read(), await dermoscopy.read()
        return await asyncio.get_running_loop().run_in_executor(thread, answer, *images)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.load.peer")
    parser.add_argument("bundle")
    parser.add_argument("engine")
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    uvicorn.run(create_peer(options.bundle, options.engine), port=options.port, log_level="error", access_log=False)
