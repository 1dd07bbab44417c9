"""Evaluating the out-of-fold predictions of a run with folds, nested: nothing of a fold is chosen on that fold."""

from collections import Counter
from dataclasses import replace

import numpy as np

from derm_ray import __version__
from derm_ray.bundle import Bundle
from derm_ray.data.summary import few_warning
from derm_ray.domain import Calibration, CancerDefinition, LabelSet, OperatingPoint, PredictionKind
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.comparison import RESAMPLES
from derm_ray.evaluation.evaluate import compute_metrics, evaluate_kind, support, task_sizes
from derm_ray.evaluation.evaluation import Evaluation, Group, grouped
from derm_ray.evaluation.kinds import Flags
from derm_ray.evaluation.metrics import Draws, Labels, Scores, task_scores
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
    numbers = np.unique(held.folds)
    decide = bundle.calibration.decide
    fitted, frequent = [], []
    for number in numbers:
        others = held.folds != number
        known = {kind: p[others] for kind, p in held.scores.items()}
        fitted.append(fit_calibration(labels, held.labels[others], known, decide))
        frequent.append(Counter(held.labels[others].tolist()).most_common(1)[0][0])
    tasks = {task.name: task for task in labels.tasks(definition)}
    all_ids = np.array(held.lesion_ids)

    def measure(rows: Flags, kinds: tuple[PredictionKind, ...]) -> Group:
        own, ids = held.labels[rows], all_ids[rows].tolist()
        folds = [held.folds[rows] == number for number in numbers]
        found, calibrated = {}, {}
        for kind in kinds:
            raw = held.scores[kind][rows]
            probabilities = calibrated[kind] = np.zeros(raw.shape)
            for fold, one in zip(folds, fitted, strict=True):
                probabilities[fold] = temper(raw[fold], one.temperatures.get(kind, 1.0))
            found[kind] = evaluate_kind(
                tasks,
                names,
                own,
                probabilities,
                ids,
                _operating(labels, own, kind, folds, fitted, probabilities),
                offsets=_offsets(kind, folds, fitted, probabilities),
                resamples=resamples,
            )
        constant = np.zeros((len(own), len(names)))
        for fold, name in zip(folds, frequent, strict=True):
            constant[fold, name] = 1
        return Group(
            pairs=len(own),
            lesions=len(set(ids)),
            support=support(labels, own),
            task_sizes=task_sizes(tasks, labels, own, calibrated[kinds[-1]]),
            kinds=found,
            majority=compute_metrics(labels, own, constant, definition),
            without_patient={},
            differences={},
        )

    complete, alone = grouped(held.scores, measure)
    few = few_warning("train and val", support(labels, held.labels), len(set(held.lesion_ids)))
    provenance = bundle.provenance
    return Evaluation(
        **vars(complete),
        label_set=labels,
        definition=definition,
        split=SPLIT,
        grouping=provenance["grouping"],
        warnings=(few,) if few else (),
        alone=alone,
        provenance={
            "model_digest": bundle.model_digest,
            "run_id": bundle.run_id,
            "members": provenance["members"],
            "folds": len(numbers),
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
    offsets = np.zeros(probabilities.shape)
    for fold, one in zip(folds, fitted, strict=True):
        offsets[fold] = one.offsets.get(kind, 0.0)
    return offsets if offsets.any() else None


def _operating(
    label_set: LabelSet,
    labels: Labels,
    kind: PredictionKind,
    folds: list[Flags],
    fitted: list[Calibration],
    probabilities: Scores,
) -> tuple[OperatingPoint, ...]:
    """Return the operating points as all folds together reached them; the threshold is the mean over the folds.

    NaN where a side is empty.
    """
    found: list[OperatingPoint] = []
    for point in (point for point in fitted[0].operating_points if point.kind is kind):
        same = [
            next((p for p in one.operating_points if (p.kind, p.name) == (kind, point.name)), None) for one in fitted
        ]
        given = [one for one in same if one is not None]
        if len(given) < len(folds):
            continue
        task = next(task for task in label_set.tasks() if task.name == point.task)
        sides = [task_scores(task, label_set.class_names, labels[fold], probabilities[fold]) for fold in folds]
        reached = [
            np.concatenate([test(side[which], one.threshold) for side, one in zip(sides, given, strict=True)])
            for which, test in ((0, np.greater_equal), (1, np.less))
        ]
        sensitivity, specificity = (float(side.mean()) if len(side) else float("nan") for side in reached)
        threshold = float(np.mean([one.threshold for one in given]))
        found.append(replace(point, threshold=threshold, sensitivity=sensitivity, specificity=specificity))
    return tuple(found)
