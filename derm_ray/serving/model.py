"""A model that answers for encoded images."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic, perf_counter
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch

from derm_ray import storage
from derm_ray.bundle import CARD, load_bundle
from derm_ray.data.patient import check_patient
from derm_ray.data.preprocessing import LoadedImage, PairPixels, image_from_bytes, to_pair
from derm_ray.data.statistics import ImageStatistics, measure
from derm_ray.domain import Modality, Prediction
from derm_ray.errors import BundleError, ConfigError, ImageError
from derm_ray.inference.predictor import Predictor
from derm_ray.inference.saliency import SaliencyMapper, no_maps, overlay_files
from derm_ray.serving.admission import Admission
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.batches import Batches, Late
from derm_ray.serving.drift import DriftMetrics
from derm_ray.serving.metrics import ModelMetrics
from derm_ray.serving.problems import ApiError, busy, invalid_request
from derm_ray.serving.recorder import Recorder
from derm_ray.serving.schemas import Score, describe_model, to_score

MAX_BATCH = 16
ANSWER_S = 10.0
"""A pair that could not be answered within this time, from its arrival, is refused when its turn comes."""
WAIT_S = 5.0
"""The longest expected wait with which a pair is admitted."""
MAX_PAIRS = 512
"""Pairs under way, admitted before the speed is known or on a machine that answers more than 100 a second."""

T = TypeVar("T")


class ServedModel:
    """Decodes, predicts and words the answer; a request is the work of one model from its bytes to its score.

    So while one model takes over from another, whatever their input sizes and classes, no answer mixes the two.

    Args:
        args: the bundle, the engine's resolved name, and the device; of ``cpus`` threads, as many compute as decode.
        model_digest: of the bundle.
        recorder: records what it measures.

    Attributes:
        description: which model this is.
        admission: which pairs it takes.

    Raises:
        BundleError, StorageError: the bundle cannot be loaded, or is another one by now.
    """

    def __init__(self, args: ServeArguments, model_digest: str, recorder: Recorder) -> None:
        torch.set_num_threads(args.cpus)
        self._bundle = load_bundle(args.model)
        if self._bundle.model_digest != model_digest:
            raise BundleError(f"{args.model} has changed while it was being served. Serve it again.")
        device = torch.device("cuda" if args.gpu else "cpu")
        self._predictor = Predictor(self._bundle, args.engine, batch_size=MAX_BATCH, device=device)
        self._mapper = SaliencyMapper(self._bundle, device) if self._bundle.network.cam is not None else None
        card = storage.read_bytes(storage.join(args.model, CARD)).decode()
        self.description = describe_model(self._bundle, args.engine, card)
        self.admission = Admission(WAIT_S, MAX_PAIRS)
        self._metrics = ModelMetrics(recorder)
        self._drift = DriftMetrics(self._bundle.reference, recorder)
        self._threads = ThreadPoolExecutor(args.cpus)
        self._forward = ThreadPoolExecutor(1)
        self._batches = Batches(self.predict_batch, MAX_BATCH)
        self._warm_up(MAX_BATCH if args.gpu else 1)

    def _warm_up(self, batch: int) -> None:
        """Run the first pass of each kind, which is slow, before the model reports that it is ready."""
        blank = np.zeros((self._bundle.preprocessing.size, self._bundle.preprocessing.size, 3), np.uint8)
        pair = PairPixels(blank, blank)
        self._predictor.predict([pair] * batch + [PairPixels(blank, None), PairPixels(None, blank)])
        if self._mapper is not None:
            overlay_files(self._mapper, pair)

    async def score(
        self,
        clinical: bytes | None,
        dermoscopy: bytes | None,
        saliency: bool,
        patient: Mapping[str, object] = MappingProxyType({}),
    ) -> Score:
        """Answer for the encoded images of one lesion, one of them at least, and its patient data as it was sent.

        Raises:
            ApiError: an image or patient data cannot be used (422), the model has no maps (400), or there is no time
                for it (503).
        """
        if saliency and self._mapper is None:
            raise ApiError(400, "no_saliency", f"This model has no maps: {no_maps(self._bundle)}")
        try:
            values = check_patient(self._bundle.patient, patient)
        except ConfigError as error:
            raise invalid_request([f"patient: {error}"]) from error
        if wait_s := self.admission.retry_after_s():
            raise busy(wait_s)
        deadline = monotonic() + ANSWER_S
        with self.admission.admitted():
            try:
                with self._metrics.stage("decode"):
                    pixels, statistics = await self._decode(clinical, dermoscopy)
            except ImageError as error:
                self._metrics.image_error(str(error.code))
                raise ApiError(422, str(error.code), error.message) from error
            pixels = replace(pixels, patient=values)
            prediction = await self.predict((pixels, perf_counter()), deadline)
            with self._metrics.stage("encode"):
                overlays = await self._off(overlay_files, self._mapper, pixels) if saliency else None
                score = to_score(prediction, self._bundle, pixels.flags, overlays)
        self._metrics.prediction(prediction)
        self._drift.observe(prediction, statistics)
        return score

    async def predict(self, waiting: tuple[PairPixels, float], deadline: float) -> Prediction:
        """Answer for one preprocessed pair, together with those that wait by then.

        Args:
            waiting: the pair, and since when it waits (:func:`time.perf_counter`).
            deadline: when its answer has to be there (:func:`time.monotonic`).

        Raises:
            ApiError: that will not be possible (503).
        """
        try:
            return await self._batches.ask(waiting, deadline)
        except Late:
            raise busy(self.admission.retry_after_s() or 1) from None

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
        return to_pair({modality: [image] for modality, image in loaded.items()}), statistics

    def _load(self, modality: Modality, data: bytes) -> tuple[LoadedImage, ImageStatistics]:
        image = image_from_bytes(modality, data, self._bundle.preprocessing)
        return image, measure(image)

    async def _off(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)
