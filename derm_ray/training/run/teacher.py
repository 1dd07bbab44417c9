"""The teacher of a run: its probabilities of train, computed once by Ray Data and kept in the run's folder."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from derm_ray import storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.prepared import require_size
from derm_ray.domain import LabelSet, PredictionKind, Split
from derm_ray.errors import ConfigError, counted
from derm_ray.evaluation.stored_predictions import read_predictions, write_predictions
from derm_ray.training.batches import LabeledPairs, labeled
from derm_ray.training.run.pair_predictions import predict_pairs, stored

logger = logging.getLogger(__name__)

TEACHER = "teacher.parquet"


def load_teacher(uri: str, labels: LabelSet, manifest: Manifest) -> Bundle:
    """Return a teacher for a label set, of any network and size.

    Raises:
        ConfigError: its classes are others, or the manifest's images were prepared at another size than its.
        BundleError, StorageError: it cannot be read.
    """
    teacher = load_bundle(uri)
    own, its = labels.class_names, teacher.label_set.class_names
    if own != its:
        different = [f"{name} only in {where}" for where, name in _differences(own, its)]
        raise ConfigError(
            f"--teacher {uri}: its label set is {teacher.label_set.name}, the recipe's {labels.name}: "
            f"{', '.join(different) or 'the order of classes differs'}. Give --set label_set={teacher.label_set.name}, "
            "or another teacher."
        )
    require_size(manifest, teacher.preprocessing, "the teacher's size")
    return teacher


def _differences(own: Sequence[str], its: Sequence[str]) -> list[tuple[str, str]]:
    only = [("the recipe", name) for name in own if name not in its] + [
        ("the teacher", name) for name in its if name not in own
    ]
    shown = 4
    return only[:shown] + ([("either", f"{len(only) - shown} more")] if len(only) > shown else [])


def learn_from(
    teacher: Bundle, split: LabeledPairs, manifest: Manifest, run_uri: str, *, use_gpu: bool
) -> LabeledPairs:
    """Return a split with the teacher's calibrated probabilities, of the images as they are, not augmented.

    A run that is resumed reads them from its folder, whose identity includes the teacher.

    Raises:
        ImageError: an image cannot be used.
        StorageError: storage failed.
    """
    uri = storage.join(run_uri, TEACHER)
    if not storage.exists(uri):
        logger.info("computing the teacher's predictions of %s", counted(len(split), "pair"))
        pairs = labeled(manifest, Split.TRAIN, teacher.label_set, teacher.patient).pairs
        scores = predict_pairs(teacher, pairs, use_gpu=use_gpu)
        write_predictions(stored(teacher.label_set, split, scores), uri)
    found = read_predictions(uri)
    return replace(split, teacher=np.stack([found.scores[kind] for kind in PredictionKind], 1))
