"""Evaluating the out-of-fold predictions of a run with folds, nested: nothing of a fold is chosen on that fold."""

from collections import Counter
from dataclasses import replace

import numpy as np

from derm_ray import __version__
from derm_ray.bundle import Bundle
from derm_ray.data.summary import few_warning
from derm_ray.domain import Calibration, CancerDefinition, OperatingPoint, PredictionKind
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.comparison import RESAMPLES
from derm_ray.evaluation.evaluate import compute_metrics, evaluate_kind
from derm_ray.evaluation.evaluation import Evaluation
from derm_ray.evaluation.metrics import Draws, Flags, Scores, task_scores
from derm_ray.evaluation.stored_predictions import StoredPredictions
from derm_ray.inference.predictor import temper

SPLIT = "out-of-fold predictions"


def evaluate_out_of_fold(
    held: StoredPredictions,
    bundle: Bundle,
    *,
    definition: CancerDefinition = CancerDefinition.PAPER,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Evaluate the predictions of each fold by the member that was not trained on it.

    Temperatures, thresholds and decision offsets for the lesions of a fold are fitted on the other folds. The bundle's
    own calibration rests on all folds, and it predicts with all members: these numbers are those of one at a time.

    Args:
        held: the predictions of all folds.
        bundle: of the run.
        definition: which classes count as cancer.
        resamples: bootstrap draws.
    """
    labels, names = held.label_set, held.label_set.class_names
    folds = [held.folds == fold for fold in np.unique(held.folds)]
    decide = bundle.calibration.decide
    fitted = [
        fit_calibration(labels, held.labels[~fold], {kind: p[~fold] for kind, p in held.scores.items()}, decide)
        for fold in folds
    ]
    tasks = {task.name: task for task in labels.tasks(definition)}
    kinds, calibrated = {}, {}
    for kind, raw in held.scores.items():
        probabilities = np.zeros(raw.shape)
        for fold, one in zip(folds, fitted, strict=True):
            probabilities[fold] = temper(raw[fold], one.temperatures[kind])
        calibrated[kind] = probabilities
        kinds[kind] = evaluate_kind(
            tasks,
            names,
            held.labels,
            probabilities,
            held.lesion_ids,
            _operating(held, kind, folds, fitted, probabilities),
            offsets=_offsets(kind, folds, fitted, probabilities),
            resamples=resamples,
        )
    cross = calibrated[PredictionKind.CROSS]
    sides = {name: task_scores(task, names, held.labels, cross) for name, task in tasks.items()}
    support = {name: int((held.labels == i).sum()) for i, name in enumerate(names)}
    provenance = bundle.provenance
    return Evaluation(
        label_set=labels,
        definition=definition,
        split=SPLIT,
        pairs=len(held.labels),
        lesions=len(set(held.lesion_ids)),
        grouping=provenance["grouping"],
        support=support,
        task_sizes={name: (len(positive), len(negative)) for name, (positive, negative) in sides.items()},
        warnings=(few,) if (few := few_warning("train and val", support, len(set(held.lesion_ids)))) else (),
        kinds=kinds,
        majority=_majority(held, folds, definition),
        without_patient={},
        differences={},
        provenance={
            "model_digest": bundle.model_digest,
            "run_id": bundle.run_id,
            "members": provenance["members"],
            "folds": len(folds),
            "manifest_digest": provenance["manifest_digest"],
            "derm_ray_version": __version__,
            "bootstrap_resamples": resamples,
            "images": "as given",
            "calibrated_on": "the other folds",
            "decide": decide,
        },
    )


def _offsets(
    kind: PredictionKind, folds: list[Flags], fitted: list[Calibration], probabilities: Scores
) -> Draws | None:
    """Return each pair's decision offsets (N, K), fitted on the other folds."""
    if not fitted[0].offsets:
        return None
    offsets = np.zeros(probabilities.shape)
    for fold, one in zip(folds, fitted, strict=True):
        offsets[fold] = one.offsets[kind]
    return offsets


def _operating(
    held: StoredPredictions, kind: PredictionKind, folds: list[Flags], fitted: list[Calibration], probabilities: Scores
) -> tuple[OperatingPoint, ...]:
    """Return the operating points as all folds together reached them; the threshold is the mean over the folds."""
    found: list[OperatingPoint] = []
    for point in (point for point in fitted[0].operating_points if point.kind is kind):
        same = [
            next((p for p in one.operating_points if (p.kind, p.name) == (kind, point.name)), None) for one in fitted
        ]
        given = [one for one in same if one is not None]
        if len(given) < len(folds):
            continue
        task = next(task for task in held.label_set.tasks() if task.name == point.task)
        sides = [
            task_scores(task, held.label_set.class_names, held.labels[fold], probabilities[fold]) for fold in folds
        ]
        reached = [
            np.concatenate([test(side[which], one.threshold) for side, one in zip(sides, given, strict=True)])
            for which, test in ((0, np.greater_equal), (1, np.less))
        ]
        sensitivity, specificity = (float(side.mean()) for side in reached)
        threshold = float(np.mean([one.threshold for one in given]))
        found.append(replace(point, threshold=threshold, sensitivity=sensitivity, specificity=specificity))
    return tuple(found)


def _majority(held: StoredPredictions, folds: list[Flags], definition: CancerDefinition) -> dict[str, float]:
    """Return the metrics of naming for each fold the most frequent class of the others."""
    constant = np.zeros((len(held.labels), len(held.label_set.class_names)))
    for fold in folds:
        constant[fold, Counter(held.labels[~fold].tolist()).most_common(1)[0][0]] = 1
    return compute_metrics(held.label_set, held.labels, constant, definition)
