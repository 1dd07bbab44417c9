"""Probabilities of labelled pairs, kept as Parquet."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from derm_ray import storage
from derm_ray.domain import PredictionKind
from derm_ray.errors import StorageError

Probabilities = npt.NDArray[np.float32]
"""(N, 3, K): pairs, one row per :class:`derm_ray.domain.PredictionKind`, classes."""

FOLD = "fold"


def write_predictions(
    uri: str,
    pair_ids: Sequence[str],
    class_names: Sequence[str],
    probabilities: Probabilities,
    folds: Sequence[int] | None = None,
) -> None:
    """Write the probabilities of pairs, one row each, in columns ``<kind>_<class>``, and the fold of each, if any."""
    values = probabilities.reshape(len(pair_ids), -1).T
    fold = {} if folds is None else {FOLD: folds}
    table = pa.table({"pair_id": pair_ids, **fold, **dict(zip(_columns(class_names), values, strict=True))})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(uri, buffer.getvalue())


def read_predictions(uri: str, pair_ids: Sequence[str], class_names: Sequence[str]) -> Probabilities:
    """Read what :func:`write_predictions` wrote of these pairs, in this order.

    Raises:
        StorageError: it cannot be read, or holds other pairs or classes.
    """
    table = _read(uri, class_names)
    if table["pair_id"].to_pylist() != list(pair_ids):
        raise StorageError(f"{uri} holds the predictions of other pairs. Remove it; the same command computes it.")
    return _probabilities(table, class_names)


def read_folds(uri: str, class_names: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int64], Probabilities]:
    """Return the pairs of a file with folds, the fold of each (N,) and their probabilities; see also the above."""
    table = _read(uri, class_names)
    return table["pair_id"].to_pylist(), table[FOLD].to_numpy(), _probabilities(table, class_names)


def _read(uri: str, class_names: Sequence[str]) -> pa.Table:
    table = pq.read_table(io.BytesIO(storage.read_bytes(uri)))
    if missing := {"pair_id", *_columns(class_names)} - set(table.column_names):
        raise StorageError(f"{uri} does not hold predictions of these classes: no column {min(missing)}.")
    return table


def _probabilities(table: pa.Table, class_names: Sequence[str]) -> Probabilities:
    values = np.stack([table[name].to_numpy() for name in _columns(class_names)], 1).astype(np.float32)
    return values.reshape(len(table), len(PredictionKind), -1)


def _columns(class_names: Sequence[str]) -> list[str]:
    return [f"{kind}_{name}" for kind in PredictionKind for name in class_names]
