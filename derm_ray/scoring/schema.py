"""The table that bulk scoring writes; every part has the same schema, even one where all rows failed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from derm_ray.domain import (
    SENSITIVITIES,
    LabelSet,
    LesionPair,
    Modality,
    Prediction,
    PredictionKind,
    operating_point_name,
)
from derm_ray.errors import ImageError


def score_schema(label_set: LabelSet, *, per_input_predictions: bool = False, saliency: bool = False) -> pa.Schema:
    """Return the schema.

    ``flags`` lists image flags, separated by spaces, such as ``clinical:animated``.

    One ``p_<class>`` column per class, ``p_cancer`` and ``p_melanoma`` where the label set has these tasks, one
    boolean per task and target sensitivity (null where the model has no such operating point).
    ``per_input_predictions`` adds one ``<kind>_<class>`` column per prediction kind and class, ``saliency`` the
    overlays' paths in the output.
    """
    overlays = [(f"{modality}_saliency", pa.string()) for modality in Modality] if saliency else []
    probabilities = [(f"p_{name}", pa.float32()) for name in label_set.class_names]
    if per_input_predictions:
        probabilities += [(f"{k}_{name}", pa.float32()) for k in PredictionKind for name in label_set.class_names]
    # A class may itself be a task's only positive, such as melanoma of paper15: one column serves both.
    names = {name for name, _ in probabilities}
    tasks = [(f"p_{task.name}", pa.float32()) for task in label_set.tasks() if f"p_{task.name}" not in names]
    points = [(operating_point_name(t.name, s), pa.bool_()) for t in label_set.tasks() for s in SENSITIVITIES]
    return pa.schema(
        [
            ("pair_id", pa.string()),
            ("lesion_id", pa.string()),
            ("status", pa.string()),
            ("error_code", pa.string()),
            ("error_message", pa.string()),
            ("modality", pa.string()),
            ("flags", pa.string()),
            ("diagnosis", pa.string()),
            ("confidence", pa.float32()),
            *probabilities,
            *tasks,
            *points,
            *overlays,
            ("model_digest", pa.string()),
            ("engine", pa.string()),
            ("derm_ray_version", pa.string()),
            ("scored_at", pa.timestamp("us", tz="UTC")),
        ]
    )


@dataclass(frozen=True)
class Scored:
    """The result of one pair, with its flags and overlays.

    Attributes:
        result: the prediction, or the error.
        flags: of the images.
        overlays: modality -> path of its overlay, relative to the output.
    """

    result: Prediction | ImageError
    flags: tuple[str, ...] = ()
    overlays: Mapping[Modality, str] = field(default_factory=dict)


def score_table(
    pairs: Sequence[LesionPair],
    scored: Sequence[Scored],
    label_set: LabelSet,
    schema: pa.Schema,
    *,
    provenance: dict[str, str],
    scored_at: datetime,
) -> pa.Table:
    """Return one row per pair, in order.

    Args:
        pairs, scored: pairs and their results.
        label_set: class order.
        schema: of :func:`score_schema`.
        provenance: ``model_digest``, ``engine``, ``derm_ray_version``.
        scored_at: aware time.
    """
    rows = [
        {
            "pair_id": pair.pair_id,
            "lesion_id": pair.lesion_id,
            **(_error_row(one.result) if isinstance(one.result, ImageError) else _ok_row(one.result, label_set)),
            "flags": " ".join(one.flags) or None,
            **{f"{modality}_saliency": path for modality, path in one.overlays.items()},
            **provenance,
            "scored_at": scored_at,
        }
        for pair, one in zip(pairs, scored, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def _error_row(error: ImageError) -> dict[str, Any]:
    return {"status": "error", "error_code": str(error.code), "error_message": error.message}


def _ok_row(prediction: Prediction, label_set: LabelSet) -> dict[str, Any]:
    row: dict[str, Any] = {
        "status": "ok",
        "modality": prediction.modality,
        "diagnosis": prediction.diagnosis,
        "confidence": prediction.confidence,
        **{f"p_{task}": p for task, p in prediction.task_probabilities.items()},
        **prediction.above_threshold,
    }
    row |= {f"p_{name}": p for name, p in zip(label_set.class_names, prediction.probabilities, strict=True)}
    for kind, probabilities in prediction.per_input_predictions.items():
        row |= {f"{kind}_{name}": p for name, p in zip(label_set.class_names, probabilities, strict=True)}
    return row
