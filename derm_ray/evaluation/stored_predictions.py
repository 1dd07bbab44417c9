"""Predictions of labelled pairs as a Parquet file: of val, of all folds together, or of a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.domain import LabelSet, PredictionKind, label_set
from derm_ray.errors import ConfigError
from derm_ray.evaluation.metrics import Labels

OUT_OF_FOLD = "out_of_fold.parquet"
"""File of the predictions of all folds, in the folder of a run with folds."""

KindProbabilities = dict[PredictionKind, npt.NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class StoredPredictions:
    """Probabilities as the network gives them, before calibration.

    Attributes:
        label_set: classes.
        pair_ids, lesion_ids: of the N pairs.
        labels: their class indices (N,); -1 where the diagnosis is coarse.
        folds: their folds (N,), from 1; 0 in a run without folds.
        scores: prediction kind -> (N, K); NaN for lesions that lack its images.
    """

    label_set: LabelSet
    pair_ids: tuple[str, ...]
    lesion_ids: tuple[str, ...]
    labels: Labels
    folds: npt.NDArray[np.int64]
    scores: KindProbabilities


def joined(parts: Sequence[StoredPredictions]) -> StoredPredictions:
    """Return the predictions of all folds, whose parts are given in order."""
    return StoredPredictions(
        parts[0].label_set,
        tuple(name for part in parts for name in part.pair_ids),
        tuple(name for part in parts for name in part.lesion_ids),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([np.full(len(part.labels), fold) for fold, part in enumerate(parts, 1)]),
        {kind: np.concatenate([part.scores[kind] for part in parts]) for kind in parts[0].scores},
    )


def write_predictions(held: StoredPredictions, uri: str) -> None:
    """Write them, atomically: one row per pair, a column ``<kind>_<class>`` per prediction kind and class.

    Values of lesions that lack a kind's images are null.
    """
    names = held.label_set.class_names
    columns: dict[str, Any] = {
        "pair_id": held.pair_ids,
        "lesion_id": held.lesion_ids,
        "diagnosis": [names[index] if index >= 0 else None for index in held.labels],
        "fold": held.folds,
    }
    for kind, probabilities in held.scores.items():
        columns |= {
            f"{kind}_{name}": pa.array(probabilities[:, index], from_pandas=True) for index, name in enumerate(names)
        }
    sink = BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({"label_set": held.label_set.name}), sink)
    storage.write_bytes(uri, sink.getvalue())


def read_predictions(uri: str) -> StoredPredictions:
    """Return what :func:`write_predictions` wrote.

    Raises:
        StorageError: it cannot be read.
        ConfigError: it is missing or damaged.
    """
    fix = f"Delete the folder {storage.parent(uri)}, and run the same training again."
    if not storage.exists(uri):
        raise ConfigError(f"{uri}: not found, though its run has ended. {fix}")
    data = storage.read_bytes(uri)
    try:
        # On the calling thread: a process that ends soon after a read on Arrow's threads may abort (pyarrow 26).
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        labels = label_set((table.schema.metadata or {})[b"label_set"].decode())
        names = labels.class_names
        scores = {
            kind: np.stack([table[f"{kind}_{name}"].to_numpy() for name in names], 1).astype(np.float32)
            for kind in PredictionKind
        }
        return StoredPredictions(
            labels,
            tuple(table["pair_id"].to_pylist()),
            tuple(table["lesion_id"].to_pylist()),
            np.array([names.index(name) if name else -1 for name in table["diagnosis"].to_pylist()]),
            table["fold"].to_numpy(),
            scores,
        )
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ConfigError(f"{uri}: not predictions of a training run ({error}). {fix}") from error
