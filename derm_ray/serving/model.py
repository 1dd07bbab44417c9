"""A model that answers for encoded images."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from derm_ray import storage
from derm_ray.bundle import CARD, load_bundle
from derm_ray.data.preprocessing import LoadedImage, PairPixels, image_from_bytes, to_pair
from derm_ray.data.statistics import ImageStatistics, measure
from derm_ray.errors import BundleError, ImageError
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import SaliencyMapper, overlay_files
from derm_ray.observability import WorkerLogs
from derm_ray.serving.batches import Batches
from derm_ray.serving.drift import DriftMetrics
from derm_ray.serving.metrics import ModelMetrics
from derm_ray.serving.problems import ApiError, to_problem
from derm_ray.serving.schemas import Model, Problem, Score, describe_model, to_score
from derm_ray.vocabulary import Modality, Prediction

MAX_BATCH = 16

T = TypeVar("T")


class Answered(NamedTuple):
    """What a model said of a pair."""

    model_digest: str
    result: Score | Problem


class ServedModel:
    """Decodes, predicts and words the answer; a request is the work of one model from its bytes to its score.

    So while one model takes over from another, whatever their input sizes and classes, no answer mixes the two.

    Args:
        model_uri: a bundle.
        model_digest: of the bundle.
        engine: name.
        use_gpu: where the network runs.
        threads: that compute, and as many that decode and word answers.
        logs: how it logs.

    Raises:
        BundleError, StorageError: the bundle cannot be loaded, or is another one by now.
    """

    def __init__(
        self, model_uri: str, model_digest: str, engine: str, use_gpu: bool, threads: int, logs: WorkerLogs
    ) -> None:
        logs.begin()
        torch.set_num_threads(threads)
        self._bundle = load_bundle(model_uri)
        if self._bundle.model_digest != model_digest:
            raise BundleError(f"{model_uri} has changed while it was being served. Serve it again.")
        device = torch.device("cuda" if use_gpu else "cpu")
        self._predictor = Predictor(self._bundle, engine, batch_size=MAX_BATCH, device=device)
        self._mapper = SaliencyMapper(self._bundle, device) if self._bundle.network.cam is not None else None
        card = storage.read_bytes(storage.join(model_uri, CARD)).decode()
        self._description = describe_model(self._bundle, engine, card)
        self._metrics = ModelMetrics()
        self._drift = DriftMetrics(self._bundle.reference)
        self._threads = ThreadPoolExecutor(threads)
        self._forward = ThreadPoolExecutor(1)
        self._batches = Batches(self.predict_batch, MAX_BATCH)
        self._warm_up(MAX_BATCH if use_gpu else 1)

    def _warm_up(self, batch: int) -> None:
        """Run the first pass of each kind, which is slow, before anybody is told that the model is ready."""
        blank = np.zeros((self._bundle.preprocessing.size, self._bundle.preprocessing.size, 3), np.uint8)
        pair = PairPixels(blank, blank)
        self._predictor.predict([pair] * batch + [PairPixels(blank, None), PairPixels(None, blank)])
        if self._mapper is not None:
            overlay_files(self._mapper, pair)

    async def describe(self) -> Model:
        """Tell which model this is."""
        return self._description

    async def score(self, clinical: bytes | None, dermoscopy: bytes | None, saliency: bool) -> Answered:
        """Answer for the encoded images of one lesion, one of them at least."""
        digest = self._bundle.model_digest
        if saliency and self._mapper is None:
            no_maps = ApiError(400, "no_saliency", "This model has no maps: its head is not cam_bp.")
            return Answered(digest, to_problem(no_maps))
        try:
            with self._metrics.stage("decode"):
                pixels, statistics = await self._decode(clinical, dermoscopy)
        except ImageError as error:
            self._metrics.image_error(str(error.code))
            return Answered(digest, to_problem(ApiError(422, str(error.code), error.message)))
        prediction = await self.predict((pixels, perf_counter()))
        with self._metrics.stage("encode"):
            overlays = await self._off(overlay_files, self._mapper, pixels) if saliency else None
            score = to_score(prediction, None, self._bundle.label_set, digest, flags=pixels.flags, overlays=overlays)
        self._metrics.prediction(prediction)
        self._drift.observe(prediction, statistics)
        return Answered(digest, score)

    async def predict(self, waiting: tuple[PairPixels, float]) -> Prediction:
        """Answer for one preprocessed pair, together with those that wait by then.

        Args:
            waiting: the pair, and since when it waits (:func:`time.perf_counter`).
        """
        return await self._batches.ask(waiting)

    async def predict_batch(self, waiting: list[tuple[PairPixels, float]]) -> list[Prediction]:
        """Answer for preprocessed pairs in one forward pass, off the event loop."""
        now = perf_counter()
        for _, since in waiting:
            self._metrics.waited("queue", now - since)
        self._metrics.batch(len(waiting))
        with self._metrics.stage("infer"):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._forward, self._predictor.predict, [pair for pair, _ in waiting])

    async def _decode(
        self, clinical: bytes | None, dermoscopy: bytes | None
    ) -> tuple[PairPixels, dict[Modality, ImageStatistics]]:
        """Decode and measure both images at the same time."""
        given = {m: data for m, data in zip(Modality, (clinical, dermoscopy), strict=True) if data is not None}
        loading = [self._off(self._load, modality, data) for modality, data in given.items()]
        loaded: dict[Modality, LoadedImage] = {}
        statistics: dict[Modality, ImageStatistics] = {}
        for modality, image in zip(given, await asyncio.gather(*loading, return_exceptions=True), strict=True):
            if isinstance(image, BaseException):
                raise image
            loaded[modality], statistics[modality] = image
        return to_pair(loaded), statistics

    def _load(self, modality: Modality, data: bytes) -> tuple[LoadedImage, ImageStatistics]:
        image = image_from_bytes(modality, data, self._bundle.preprocessing)
        return image, measure(image)

    async def _off(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
