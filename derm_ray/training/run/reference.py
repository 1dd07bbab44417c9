"""The drift reference of a model: predictions on val, and statistics of training images."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
from ray.exceptions import RayError

from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.preprocessing import Preprocessing, load_image
from derm_ray.data.reference import Reference
from derm_ray.data.statistics import ImageStatistics, measure
from derm_ray.domain import Calibration, LabelSet, LesionPair, Modality
from derm_ray.errors import ImageError, counted
from derm_ray.evaluation.drift import fit_reference, min_samples
from derm_ray.evaluation.kinds import having
from derm_ray.inference.predictor import temper
from derm_ray.training.batches import images_of
from derm_ray.training.loop import KindProbabilities

logger = logging.getLogger(__name__)

SAMPLE = 1000
"""Pairs at most: ten bins of them are within 1% of their true shares (one standard deviation)."""
PAIRS_PER_TASK = 50
IMAGES_AT_ONCE = 4

Measured = Mapping[Modality, Sequence[ImageStatistics]]


def measure_images(pairs: Sequence[LesionPair], spec: Preprocessing, seed: int) -> Measured:
    """Return the statistics of randomly drawn images; unreadable ones are skipped.

    Tasks on the free CPUs of the cluster read them: where activations are cached, training itself reads no image.
    """
    drawn = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:SAMPLE])
    task = ray.remote(num_cpus=1)(_measure)
    try:
        found: list[Measured] = ray.get(
            [
                task.remote([pairs[index] for index in drawn[start : start + PAIRS_PER_TASK]], spec)
                for start in range(0, len(drawn), PAIRS_PER_TASK)
            ]
        )
    except RayError as error:  # must not fail a finished training
        logger.warning("no image statistics for drift monitoring: %s", str(error).strip().splitlines()[-1])
        found = []
    images = {modality: [one for part in found for one in part[modality]] for modality in Modality}
    total = int(images_of([pairs[index] for index in drawn]).sum())
    if missing := total - sum(map(len, images.values())):
        logger.warning("the drift reference lacks %d of %d images, which could not be read", missing, total)
    return images


def _measure(pairs: Sequence[LesionPair], spec: Preprocessing) -> Measured:
    uris = [(modality, uri) for pair in pairs for modality in Modality for uri in pair.uris(modality)]
    with ImageReader(uri for _, uri in uris) as reader, ThreadPoolExecutor(IMAGES_AT_ONCE) as executor:

        def read(uri: str) -> ImageStatistics | None:
            try:
                return measure(load_image(uri, spec, reader))
            except ImageError:
                return None

        read_all = list(executor.map(read, (uri for _, uri in uris)))
    found: dict[Modality, list[ImageStatistics]] = {modality: [] for modality in Modality}
    for (modality, _), one in zip(uris, read_all, strict=True):
        if one is not None:
            found[modality].append(one)
    return found


def make_reference(
    labels: LabelSet, scores: KindProbabilities, calibration: Calibration, images: Measured, *, prepared: bool
) -> Reference:
    """Return the drift reference of a bundle from the val probabilities, as the network gives them, and its images."""
    answers = {
        kind: temper(scores[kind][having(scores[kind])], temperature)
        for kind, temperature in calibration.temperatures.items()
    }
    pairs = max(map(len, answers.values()))
    if pairs < min_samples():
        logger.info(
            "val has %s: drift of predictions will not be monitored, which needs %d",
            counted(pairs, "pair"),
            min_samples(),
        )
    return fit_reference(labels.class_names, answers, images, offsets=calibration.offsets, prepared=prepared)
