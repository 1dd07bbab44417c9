"""Which lesions a prediction kind is for: a lesion with one image has that image's prediction alone."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from derm_ray.domain import PredictionKind

Flags = npt.NDArray[np.bool_]


def rows_of(present: Flags) -> dict[PredictionKind, Flags]:
    """Return which lesions have the images of each kind (N,), from which images they have (N, 2), see
    :class:`derm_ray.domain.Modality`.
    """
    return dict(zip(PredictionKind, (*present.T, present.all(1)), strict=True))


def having(probabilities: npt.NDArray[np.floating]) -> Flags:
    """Return which rows (N,) of a kind's probabilities (N, K) are there; NaN stands for lesions without its images."""
    return np.asarray(~np.isnan(probabilities).any(1))


def main_kind(rows: Mapping[PredictionKind, Flags]) -> PredictionKind:
    """Return the kind that judges a model: cross, or where no lesion has both images, that which most lesions have."""
    if rows[PredictionKind.CROSS].any():
        return PredictionKind.CROSS
    return max(PredictionKind, key=lambda kind: int(rows[kind].sum()))
