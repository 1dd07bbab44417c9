"""The table that bulk scoring writes; every part has the same schema, even one where all rows failed."""

from typing import Any

import pyarrow as pa

from derm_ray.domain import (
    SENSITIVITIES,
    LabelSet,
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
            *((f"{modality}_images", pa.int64()) for modality in Modality),
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


def error_columns(error: ImageError) -> dict[str, Any]:
    """Return the columns that only a pair that could not be scored has."""
    return {"status": "error", "error_code": str(error.code), "error_message": error.message}


def prediction_columns(prediction: Prediction, label_set: LabelSet) -> dict[str, Any]:
    """Return the columns that a prediction fills."""
    row: dict[str, Any] = {
        "status": "ok",
        "modality": prediction.modality,
        **{f"{modality}_images": prediction.images.get(modality, 0) for modality in Modality},
        "diagnosis": prediction.diagnosis,
        "confidence": prediction.confidence,
        **{f"p_{task}": p for task, p in prediction.task_probabilities.items()},
        **prediction.above_threshold,
    }
    row |= {f"p_{name}": p for name, p in zip(label_set.class_names, prediction.probabilities, strict=True)}
    for kind, probabilities in prediction.per_input_predictions.items():
        row |= {f"{kind}_{name}": p for name, p in zip(label_set.class_names, probabilities, strict=True)}
    return row
