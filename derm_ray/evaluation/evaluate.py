"""Evaluating a model on one split of a manifest."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt

from derm_ray import __version__
from derm_ray.data.labels import collapse, left_out
from derm_ray.data.loading import load_all
from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.patient_columns import patient_pairs
from derm_ray.data.prepared import require_size
from derm_ray.data.summary import few_lesions
from derm_ray.data.validation import validate
from derm_ray.domain import (
    Calibration,
    CancerDefinition,
    LabelSet,
    LesionPair,
    OperatingPoint,
    PredictionKind,
    Split,
    Task,
)
from derm_ray.errors import ConfigError
from derm_ray.evaluation.calibration import reliability
from derm_ray.evaluation.comparison import RESAMPLES, bootstrap
from derm_ray.evaluation.decisions import Offsets, decided
from derm_ray.evaluation.evaluation import Evaluation, Group, KindEvaluation, grouped
from derm_ray.evaluation.kinds import Flags, having
from derm_ray.evaluation.metrics import Draws, Labels, compute_all, confusion_matrix, metric_names, task_scores
from derm_ray.inference.predictor import Predictor

KindScores = dict[PredictionKind, npt.NDArray[np.float64]]
"""Probabilities (N, K) of each prediction kind."""


def evaluate(
    predictor: Predictor,
    manifest: Manifest,
    split: Split = Split.TEST,
    *,
    definition: CancerDefinition = CancerDefinition.PAPER,
    resamples: int = RESAMPLES,
    swapped: bool = False,
    against: Predictor | None = None,
) -> Evaluation:
    """Evaluate a model on one split: lesions with both images, and those with one of them alone.

    Args:
        predictor: the model.
        manifest: lesions with at least one image, diagnosis and split; those that are not surely one class of the
            model's label set are left out.
        split: the part to evaluate.
        definition: which classes count as cancer.
        resamples: bootstrap draws.
        swapped: swap the clinical and the dermoscopy image (section 3.1, last paragraph).
        against: another model of the same label set, to be compared on the same lesions.

    Raises:
        ManifestError: rules are broken or images cannot be used; all are listed.
        ConfigError: the split is empty, the images are prepared at another size, or the other model has other classes.
    """
    label_set = predictor.bundle.label_set
    for one in (predictor, *([against] if against is not None else [])):
        require_size(manifest, one.bundle.preprocessing, "the model's size")
        if one.bundle.label_set.name != label_set.name:
            raise ConfigError(
                f"--against: a model of label set {one.bundle.label_set.name}, this one's is {label_set.name}. Compare "
                "models of the same diagnoses."
            )
    outside = tuple(left_out(manifest, label_set, split))
    manifest = collapse(manifest, label_set)
    validate(manifest, label_set, labeled=(split,), purpose="evaluation")
    chosen = require_split(manifest, split)
    pairs = patient_pairs(chosen, predictor.bundle.patient, manifest)
    labels = np.array([label_set.class_names.index(str(pair.diagnosis)) for pair in pairs])
    lesion_ids = np.array([pair.lesion_id for pair in pairs])
    scores, without = _predict(predictor, _shown(pairs, swapped=swapped), manifest.uri)
    other: KindScores = {}
    if against is not None:
        others = _shown(patient_pairs(chosen, against.bundle.patient, manifest), swapped=swapped)
        other = _predict(against, others, manifest.uri)[0]
    tasks = {task.name: task for task in label_set.tasks(definition)}
    calibration = predictor.bundle.calibration

    def measure(rows: Flags, kinds: tuple[PredictionKind, ...]) -> Group:
        own, ids = labels[rows], lesion_ids[rows].tolist()

        def evaluated(of: KindScores) -> dict[PredictionKind, KindEvaluation]:
            return {
                kind: evaluate_kind(
                    tasks,
                    label_set.class_names,
                    own,
                    of[kind][rows],
                    ids,
                    _operating(calibration, kind, label_set, own, of[kind][rows]),
                    offsets=calibration.offsets.get(kind),
                    resamples=resamples,
                )
                for kind in kinds
                if of
            }

        def difference(kind: PredictionKind, weights: Draws) -> dict[str, Draws]:
            assert against is not None
            mine, theirs = (
                compute_all(tasks, label_set.class_names, own, of[kind][rows], weights, offsets.get(kind))
                for of, offsets in ((scores, calibration.offsets), (other, against.bundle.calibration.offsets))
            )
            return {name: mine[name] - theirs[name] for name in metric_names(tasks)}

        return Group(
            pairs=len(own),
            lesions=len(set(ids)),
            support=support(label_set, own),
            task_sizes=task_sizes(tasks, label_set, own, scores[kinds[-1]][rows]),
            kinds=evaluated(scores),
            majority=_majority(manifest, label_set, own, definition),
            without_patient=evaluated(without),
            differences={
                kind: bootstrap(partial(difference, kind), ids, resamples=resamples) for kind in kinds if other
            },
        )

    complete, alone = grouped(scores, measure)
    return Evaluation(
        **vars(complete),
        label_set=label_set,
        definition=definition,
        split=str(split),
        grouping="patient" if any(chosen.column("patient_id")) else "lesion",
        warnings=outside + ((few,) if (few := few_lesions(manifest, label_set, split)) else ()),
        alone=alone,
        provenance={
            "model_digest": predictor.bundle.model_digest,
            "against": against.bundle.model_digest if against is not None else None,
            "run_id": predictor.bundle.run_id,
            "engine": predictor.engine.name,
            "manifest_digest": manifest.digest,
            "derm_ray_version": __version__,
            "bootstrap_resamples": resamples,
            "images": "swapped" if swapped else "as given",
            "calibrated_on": predictor.bundle.calibrated_on,
            "decide": calibration.decide,
        },
    )


def support(label_set: LabelSet, labels: Labels) -> dict[str, int]:
    """Return the pairs of each class."""
    return {name: int((labels == i).sum()) for i, name in enumerate(label_set.class_names)}


def task_sizes(
    tasks: Mapping[str, Task], label_set: LabelSet, labels: Labels, probabilities: npt.NDArray[np.floating]
) -> dict[str, tuple[int, int]]:
    """Return the positives and negatives of each task."""
    sides = {name: task_scores(task, label_set.class_names, labels, probabilities) for name, task in tasks.items()}
    return {name: (len(positive), len(negative)) for name, (positive, negative) in sides.items()}


def evaluate_kind(
    tasks: Mapping[str, Task],
    class_names: Sequence[str],
    labels: Labels,
    probabilities: npt.NDArray[np.floating],
    lesion_ids: Sequence[str],
    operating: tuple[OperatingPoint, ...],
    *,
    offsets: Offsets = None,
    resamples: int = RESAMPLES,
) -> KindEvaluation:
    """Evaluate the probabilities (N, K) of one prediction kind, of pairs with class indices ``labels`` (N,).

    ``offsets`` are the decision offsets, of all pairs (K,) or of each (N, K); ``operating`` are the operating points as
    these pairs reached them.
    """
    named = decided(probabilities, offsets).argmax(1)
    return KindEvaluation(
        bootstrap(
            partial(compute_all, tasks, class_names, labels, probabilities, offsets=offsets),
            lesion_ids,
            resamples=resamples,
        ),
        confusion_matrix(labels, named, len(class_names)),
        reliability(labels, probabilities),
        operating,
    )


def _operating(
    calibration: Calibration,
    kind: PredictionKind,
    label_set: LabelSet,
    labels: Labels,
    probabilities: npt.NDArray[np.floating],
) -> tuple[OperatingPoint, ...]:
    """Return a kind's operating points, evaluated on this split; NaN where a side is empty."""
    found: list[OperatingPoint] = []
    for point in (p for p in calibration.operating_points if p.kind is kind):
        task = next(task for task in label_set.tasks() if task.name == point.task)
        positive, negative = task_scores(task, label_set.class_names, labels, probabilities)
        reached = (positive >= point.threshold, negative < point.threshold)
        sensitivity, specificity = (float(side.mean()) if len(side) else float("nan") for side in reached)
        found.append(replace(point, sensitivity=sensitivity, specificity=specificity))
    return tuple(found)


def compute_metrics(
    label_set: LabelSet,
    labels: Labels,
    probabilities: npt.NDArray[np.floating],
    definition: CancerDefinition = CancerDefinition.PAPER,
) -> dict[str, float]:
    """Return every metric of one set of predictions by name; see :class:`KindEvaluation`."""
    tasks = {task.name: task for task in label_set.tasks(definition)}
    once = np.ones((1, len(labels)))
    values = compute_all(tasks, label_set.class_names, labels, probabilities, once)
    return {name: float(value[0]) for name, value in values.items()}


def finite_metrics(
    label_set: LabelSet, labels: Labels, scores: Mapping[PredictionKind, npt.NDArray[np.floating]]
) -> dict[str, float]:
    """Return every defined metric of every prediction kind as ``<kind>/<metric>``; see :func:`compute_metrics`.

    Each is that of the lesions with the kind's images: rows of others are NaN.
    """
    return {
        f"{kind}/{name}": value
        for kind, probabilities in scores.items()
        if (rows := having(probabilities)).any()
        for name, value in compute_metrics(label_set, labels[rows], probabilities[rows]).items()
        if math.isfinite(value)
    }


def _shown(pairs: Sequence[LesionPair], *, swapped: bool) -> list[LesionPair]:
    return [replace(p, clinical_uri=p.dermoscopy_uri, dermoscopy_uri=p.clinical_uri) if swapped else p for p in pairs]


def _predict(predictor: Predictor, pairs: Sequence[LesionPair], uri: str) -> tuple[KindScores, KindScores]:
    """Return the probabilities of pairs, and of models that use patient data also those without it.

    Those of kinds whose images a pair lacks are NaN.
    """
    given: list[Mapping[PredictionKind, tuple[float, ...]]] = []
    without: list[Mapping[PredictionKind, tuple[float, ...]]] = []
    for pixels in load_all(pairs, predictor.bundle.preprocessing, uri):
        given += [one.per_input_predictions for one in predictor.predict(pixels)]
        if predictor.bundle.patient is not None:
            bare = [replace(one, patient={}) for one in pixels]
            without += [one.per_input_predictions for one in predictor.predict(bare)]
    return _by_kind(given), _by_kind(without) if without else {}


def _by_kind(predictions: Sequence[Mapping[PredictionKind, tuple[float, ...]]]) -> KindScores:
    absent = (float("nan"),) * len(next(iter(predictions[0].values())))
    return {kind: np.array([one.get(kind, absent) for one in predictions]) for kind in PredictionKind}


def _majority(
    manifest: Manifest, label_set: LabelSet, labels: Labels, definition: CancerDefinition
) -> dict[str, float]:
    """Return the metrics of the most frequent class of train, or of the evaluated split where train is empty."""
    known = [d for d in manifest.select(Split.TRAIN).column("diagnosis") if d in label_set.class_names]
    if not known:
        known = [label_set.class_names[i] for i in labels]
    winner = label_set.class_names.index(str(Counter(known).most_common(1)[0][0]))
    constant = np.zeros((len(labels), len(label_set.class_names)))
    constant[:, winner] = 1
    return compute_metrics(label_set, labels, constant, definition)
