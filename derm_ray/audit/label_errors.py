"""Likely label errors, from predictions of lesions that the model was not trained on."""

from dataclasses import dataclass

import numpy as np

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.diagnoses import decided_class
from derm_ray.domain import PredictionKind
from derm_ray.errors import ConfigError
from derm_ray.evaluation.stored_predictions import read_predictions


@dataclass(frozen=True)
class LabelError:
    """A pair whose diagnosis is probably wrong.

    Attributes:
        row: of the manifest, from 0.
        given: its diagnosis, as a class of the model's label set.
        suggested: the most probable class.
        given_probability, suggested_probability: of these, 0..1.
    """

    row: int
    given: str
    suggested: str
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class LabelErrors:
    """Likely errors, the most likely first, among the pairs of the manifest that have both a diagnosis and a
    prediction.
    """

    errors: tuple[LabelError, ...]
    checked: int


def find_label_errors(manifest: Manifest, predictions_uri: str) -> LabelErrors:
    """Return the pairs whose diagnoses are likely errors by confident learning (Northcutt et al. 2021).

    They are ranked by the probability of the given diagnosis, from both images.

    Args:
        manifest: its diagnoses are checked, not those that the model was trained with.
        predictions_uri: of out-of-fold predictions, as :mod:`derm_ray.evaluation.stored_predictions` writes them.

    Raises:
        ConfigError: they are missing, damaged, or of other pairs.
        StorageError: they cannot be read.
    """
    from cleanlab.filter import find_label_issues

    if not storage.exists(predictions_uri):
        raise ConfigError(
            f"--predictions: {predictions_uri} not found. Give out_of_fold.parquet in the folder of a run of "
            "`derm-ray train --folds`."
        )
    try:
        held = read_predictions(predictions_uri)
    except ConfigError as error:  # its own fix is to delete the folder of a run, which this may not be
        raise ConfigError(
            f"--predictions: {predictions_uri} holds no predictions of a run. Give out_of_fold.parquet in the folder "
            "of a run of `derm-ray train --folds`."
        ) from error
    names = held.label_set.class_names
    known = {
        pair_id: (row, diagnosis)
        for row, (pair_id, given) in enumerate(
            zip(manifest.column("pair_id"), manifest.column("diagnosis"), strict=True)
        )
        if given is not None and (diagnosis := decided_class(given, held.label_set)) is not None
    }
    kept = [index for index, pair_id in enumerate(held.pair_ids) if pair_id in known]
    if not kept:
        raise ConfigError(
            f"--predictions: {predictions_uri} has no pair of {manifest.uri} with a diagnosis of its label set, "
            f"{held.label_set.name}. Give the predictions of a model that was trained on this manifest."
        )
    rows = [known[held.pair_ids[index]][0] for index in kept]
    labels = np.array([names.index(known[held.pair_ids[index]][1]) for index in kept])
    scores = held.scores[PredictionKind.CROSS][kept].astype(np.float64)
    scores /= scores.sum(1, keepdims=True)
    present = np.unique(labels)
    if len(present) < 2:
        return LabelErrors((), len(kept))
    # A class that no pair has cannot have been given by mistake, but may be the right one: it stays a suggestion.
    among = scores[:, present] / np.maximum(scores[:, present].sum(1, keepdims=True), 1e-12)
    likely = find_label_issues(np.searchsorted(present, labels), among, n_jobs=1)
    errors = [
        LabelError(
            rows[index],
            names[labels[index]],
            names[best := int(scores[index].argmax())],
            float(scores[index, labels[index]]),
            float(scores[index, best]),
        )
        for index in np.flatnonzero(likely).tolist()
    ]
    return LabelErrors(tuple(sorted(errors, key=lambda error: error.given_probability)), len(kept))
