"""The predictor that evaluation, bulk scoring and the endpoint share."""

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from derm_ray.bundle import Bundle
from derm_ray.data.patient import Vectors
from derm_ray.data.preprocessing import PairPixels
from derm_ray.domain import Modality, Prediction, PredictionKind
from derm_ray.inference.engines.engine import Engine, Images, Probabilities
from derm_ray.inference.engines.selection import make_engine

logger = logging.getLogger(__name__)


class Predictor:
    """Predicts preprocessed pairs.

    Args:
        bundle: the model.
        engine: an engine or the name of one.
        batch_size: maximum pairs per forward pass; halved if memory is insufficient.
        device: of an engine given by name; ``None`` uses the first GPU, or the CPU.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine | str = "auto",
        *,
        batch_size: int = 32,
        device: torch.device | None = None,
    ) -> None:
        self.bundle = bundle
        self.engine = make_engine(bundle, engine, device) if isinstance(engine, str) else engine
        self.batch_size = batch_size
        self._classes = classes = bundle.label_set.class_names
        self._points = {
            kind: [point for point in bundle.calibration.operating_points if point.kind is kind]
            for kind in PredictionKind
        }
        self._factors = {kind: np.exp(offsets).tolist() for kind, offsets in bundle.calibration.offsets.items()}
        self._groups = {task.name: [classes.index(name) for name in task.positive] for task in bundle.label_set.tasks()}

    def predict(self, pairs: Sequence[PairPixels]) -> list[Prediction]:
        """Return one prediction per pair, in order; pairs with one image use its stream alone.

        Where a modality has several images, probabilities are means over them, taken before calibration: of a modality
        alone over its images, of both over its :meth:`derm_ray.data.preprocessing.PairPixels.views`. Patient data that
        a pair lacks, or that the model does not know, counts as missing.
        """
        predictions: dict[int, Prediction] = {}
        temperatures = self.bundle.calibration.temperatures
        for modality, indices in self._batches(pairs):
            raw = self._means([pairs[i] for i in indices])
            kinds = {kind: temper(p, temperatures.get(kind, 1.0)).tolist() for kind, p in raw.items()}
            for row, index in enumerate(indices):
                rows_of = {k: tuple(rows[row]) for k, rows in kinds.items()}
                predictions[index] = self._to_prediction(modality, rows_of, pairs[index].counts)
        return [predictions[i] for i in range(len(pairs))]

    def _means(self, batch: list[PairPixels]) -> Mapping[PredictionKind, Probabilities]:
        """Return the mean probabilities of pairs of the same modalities."""
        if not any(pair.further for pair in batch):
            return self._run(batch)
        views = [pair.views() for pair in batch]
        raw = self._run([view for of in views for view in of])
        starts = np.cumsum([0, *(len(of) for of in views[:-1])])
        means: dict[PredictionKind, Probabilities] = {}
        for kind, probabilities in raw.items():
            alone = None if kind is PredictionKind.CROSS else Modality(kind)
            sizes = [pair.counts[alone] if alone else len(of) for pair, of in zip(batch, views, strict=True)]
            ranges = zip(starts, sizes, strict=True)
            means[kind] = np.stack([probabilities[start : start + size].mean(0) for start, size in ranges])
        return means

    def _run(self, batch: list[PairPixels]) -> Mapping[PredictionKind, Probabilities]:
        """Run the engine; if memory is insufficient, halve the batch size permanently."""
        size = min(len(batch), self.batch_size)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        try:
            raw = [
                self.engine.run(_stack(p, Modality.CLINICAL), _stack(p, Modality.DERMOSCOPY), *self._patient(p))
                for p in parts
            ]
        except RuntimeError as error:
            if size == 1 or not _is_out_of_memory(error):
                raise
            self.batch_size = size // 2
            logger.warning("out of memory with %d pairs per batch; continuing with %d", size, self.batch_size)
            return self._run(batch)
        return {kind: np.concatenate([part[kind] for part in raw]) for kind in raw[0]}

    def _patient(self, batch: list[PairPixels]) -> list[Vectors]:
        """Return the encoded patient data, the engine's last argument, of models that use it."""
        encoder = self.bundle.patient
        return [encoder.encode([pair.patient for pair in batch])] if encoder is not None else []

    def _batches(self, pairs: Sequence[PairPixels]) -> Iterator[tuple[str, list[int]]]:
        size = self.batch_size  # may be halved by a batch
        for modality in ("both", *Modality):
            indices = [i for i, pair in enumerate(pairs) if pair.modality == modality]
            for start in range(0, len(indices), size):
                yield modality, indices[start : start + size]

    def _to_prediction(
        self,
        modality: str,
        per_input_predictions: dict[PredictionKind, tuple[float, ...]],
        images: Mapping[Modality, int],
    ) -> Prediction:
        kind = PredictionKind.CROSS if modality == "both" else PredictionKind(modality)
        probabilities = per_input_predictions[kind]
        named = {one: self._named(one, values) for one, values in per_input_predictions.items()}
        task_probabilities = {name: sum(probabilities[i] for i in group) for name, group in self._groups.items()}
        return Prediction(
            modality=modality,
            diagnosis=self._classes[named[kind]],
            confidence=probabilities[named[kind]],
            probabilities=probabilities,
            task_probabilities=task_probabilities,
            above_threshold={
                point.name: task_probabilities[point.task] >= point.threshold for point in self._points[kind]
            },
            per_input_predictions=per_input_predictions,
            per_input_diagnoses={one: self._classes[index] for one, index in named.items()},
            images=images,
        )

    def _named(self, kind: PredictionKind, probabilities: tuple[float, ...]) -> int:
        """Return the index of the class that is named: the most probable, or what the decision offsets favor."""
        factors = self._factors.get(kind)
        scores = [p * factor for p, factor in zip(probabilities, factors, strict=True)] if factors else probabilities
        return scores.index(max(scores))


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means out of memory; the CPU allocator raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


def temper(probabilities: Probabilities, temperature: float) -> Probabilities:
    """Return p^(1/T), renormalized over classes: temperature scaling (Guo et al. 2017) of (N, K) probabilities."""
    if temperature == 1.0:
        return probabilities
    scaled = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True), probabilities.dtype)


def _stack(batch: list[PairPixels], modality: Modality) -> Images | None:
    given = [image for pair in batch if (image := pair.of(modality)) is not None]
    return np.stack(given) if given else None
