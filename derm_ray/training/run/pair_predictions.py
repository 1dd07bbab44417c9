"""Predictions of a whole bundle for many pairs, computed by Ray Data."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
import torch

from derm_ray.bundle import Bundle
from derm_ray.data.preprocessing import PairPixels, load_pairs
from derm_ray.domain import LabelSet, LesionPair, PredictionKind
from derm_ray.errors import DermRayError, ImageError
from derm_ray.evaluation.stored_predictions import KindProbabilities, StoredPredictions
from derm_ray.inference.predictor import Predictor
from derm_ray.ray_rows import Row, dataset_of, objects, packed, unpacked
from derm_ray.training.batches import LabeledPairs

PAIRS_PER_ROW = 32
IMAGES_AT_ONCE = 4
ENGINE = "torch"

logger = logging.getLogger(__name__)


def predict_pairs(bundle: Bundle, pairs: Sequence[LesionPair], *, use_gpu: bool) -> KindProbabilities:
    """Return calibrated probabilities of pairs; all free CPUs, or GPUs, of the cluster compute.

    Those of kinds whose images a pair lacks are NaN.

    Raises:
        ImageError: an image cannot be used.
        StorageError: storage failed.
    """
    parts = [pairs[start : start + PAIRS_PER_ROW] for start in range(0, len(pairs), PAIRS_PER_ROW)]
    free = int(ray.cluster_resources().get("GPU" if use_gpu else "CPU", 1)) - (0 if use_gpu else 1)
    dataset = dataset_of(parts)
    dataset.context.execution_options.preserve_order = True
    predicted = dataset.map(
        _Actor,
        fn_constructor_args=(ray.put(bundle),),
        fn_constructor_kwargs={"use_gpu": use_gpu},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(len(parts), free))),
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
    )
    found = []
    for part in objects(predicted):
        if isinstance(part, DermRayError):
            raise part
        found.append(part)
    whole = np.concatenate(found)
    return {kind: whole[:, place] for place, kind in enumerate(PredictionKind)}


def stored(labels: LabelSet, pairs: LabeledPairs, scores: KindProbabilities) -> StoredPredictions:
    """Return the predictions of pairs as they are kept."""
    return StoredPredictions(
        labels,
        tuple(pair.pair_id for pair in pairs.pairs),
        tuple(pair.lesion_id for pair in pairs.pairs),
        pairs.labels,
        np.zeros(len(pairs), np.int64),
        scores,
    )


class _Actor:
    def __init__(self, bundle: "ray.ObjectRef[Bundle]", *, use_gpu: bool) -> None:
        self._predictor = Predictor(ray.get(bundle), ENGINE, device=torch.device("cuda" if use_gpu else "cpu"))
        self._executor = ThreadPoolExecutor(IMAGES_AT_ONCE)

    def __call__(self, row: Row) -> Row:
        pairs: list[LesionPair] = unpacked(row)
        loaded = load_pairs(list(pairs), self._predictor.bundle.preprocessing, self._executor)
        pixels: list[PairPixels] = []
        for pair, found in zip(pairs, loaded, strict=True):
            if isinstance(found, ImageError):
                return packed(ImageError(found.code, f"pair {pair.pair_id}: {found.message}"))
            pixels.append(found)
        predictions = [prediction.per_input_predictions for prediction in self._predictor.predict(pixels)]
        absent = (float("nan"),) * len(self._predictor.bundle.label_set.diagnoses)
        whole = [[kinds.get(kind, absent) for kind in PredictionKind] for kinds in predictions]
        return packed(np.array(whole, np.float32))
