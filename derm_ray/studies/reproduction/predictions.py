"""Predictions of a trial: the probabilities of every test pair, as a Parquet file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.domain import LabelSet, PredictionKind, label_set
from derm_ray.errors import StorageError
from derm_ray.evaluation.decisions import decided

FILE = "predictions.parquet"

KindScores = Mapping[PredictionKind, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class TrialPredictions:
    """Predictions for the test split.

    Attributes:
        labels: the trial's label set.
        pair_ids, lesion_ids, truth: of the N pairs, in order; class indices.
        given, swapped: prediction kind -> (N, K), also with the two images swapped; that is empty for baselines.
        metadata: model digest, best epoch, seconds since the last start of the trial, temperatures, and by prediction
            kind the model's decision ``offsets``, if it has any.
    """

    labels: LabelSet
    pair_ids: tuple[str, ...]
    lesion_ids: tuple[str, ...]
    truth: npt.NDArray[np.int64]
    given: KindScores
    swapped: KindScores
    metadata: Mapping[str, Any]

    def offsets(self, kind: PredictionKind) -> Sequence[float] | None:
        """Return the model's decision offsets (K,) of a prediction kind; ``None``: it names the most probable class."""
        found: Mapping[str, Sequence[float]] = self.metadata.get("offsets", {})
        return found.get(str(kind))

    def named(self, kind: PredictionKind, *, swapped: bool = False) -> npt.NDArray[np.int64]:
        """Return the class index (N,) of the diagnosis that each prediction names."""
        scores = (self.swapped if swapped else self.given)[kind]
        return np.asarray(decided(scores, self.offsets(kind)).argmax(1))


def write_predictions(predictions: TrialPredictions, folder: str) -> None:
    """Write them, atomically, as one row per pair with ``<kind>_<class>`` and ``swapped_<kind>_<class>`` columns."""
    columns: dict[str, Sequence[Any] | npt.NDArray[Any]] = {
        "pair_id": predictions.pair_ids,
        "lesion_id": predictions.lesion_ids,
        "diagnosis": [predictions.labels.class_names[i] for i in predictions.truth],
    }
    for prefix, scores in (("", predictions.given), ("swapped_", predictions.swapped)):
        for kind, probabilities in scores.items():
            for index, name in enumerate(predictions.labels.class_names):
                columns[f"{prefix}{kind}_{name}"] = probabilities[:, index]
    meta = {"label_set": predictions.labels.name, "metadata": json.dumps(dict(predictions.metadata))}
    sink = BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), sink)
    storage.write_bytes(storage.join(folder, FILE), sink.getvalue())


def read_predictions(folder: str) -> TrialPredictions | None:
    """Return what :func:`write_predictions` wrote, or ``None``; a ``StorageError`` names a damaged file."""
    uri = storage.join(folder, FILE)
    if not storage.exists(uri):
        return None
    try:
        # On the calling thread: a process that ends soon after a read on Arrow's threads may abort (pyarrow 26).
        table = pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri))).read(use_threads=False)
    except pa.ArrowException as error:
        raise StorageError(
            f"{uri}: damaged ({error}). Delete it; the trial's predictions will be computed again."
        ) from error
    meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    labels = label_set(meta["label_set"])

    def scores(prefix: str) -> dict[PredictionKind, npt.NDArray[np.float32]]:
        found = {}
        for kind in PredictionKind:
            names = [f"{prefix}{kind}_{name}" for name in labels.class_names]
            if names[0] in table.column_names:
                found[kind] = np.stack([table[name].to_numpy() for name in names], 1).astype(np.float32)
        return found

    return TrialPredictions(
        labels,
        tuple(table["pair_id"].to_pylist()),
        tuple(table["lesion_id"].to_pylist()),
        np.array([labels.class_names.index(name) for name in table["diagnosis"].to_pylist()]),
        scores(""),
        scores("swapped_"),
        json.loads(meta["metadata"]),
    )
