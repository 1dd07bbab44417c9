"""What a training set without some images cannot teach, in words."""

from collections.abc import Iterator

from derm_ray.domain import PredictionKind
from derm_ray.errors import counted
from derm_ray.evaluation.kinds import Flags, main_kind, rows_of

_IMAGES = {
    PredictionKind.CLINICAL: "a clinical photo",
    PredictionKind.DERMOSCOPY: "a dermoscopy image",
    PredictionKind.CROSS: "both images",
}


def unlearned(present: Flags, network: str) -> str | None:
    """Return a warning about predictions that nothing in train teaches; ``present`` (N, 2) are the images there are."""
    rows = rows_of(present)
    absent = next((kind for kind in (PredictionKind.CLINICAL, PredictionKind.DERMOSCOPY) if not rows[kind].any()), None)
    if absent is not None:
        return (
            f"train: no lesion has {_IMAGES[absent]}. Predictions from {_IMAGES[absent]}, or from both images, are not "
            "learned."
        )
    if network == "triple" and not rows[PredictionKind.CROSS].any():
        return (
            "train: no lesion has both images. The cross sub-network is not learned, which is part of every prediction "
            "from both images. Use network=share or sole."
        )
    return None


def unmeasured(present: Flags) -> str | None:
    """Return a warning about predictions that val cannot measure; ``present`` (N, 2) are the images there are."""
    rows = rows_of(present)
    absent = [_IMAGES[kind] for kind in PredictionKind if not rows[kind].any()]
    if not absent:
        return None
    kind = main_kind(rows)
    judged = (
        f" The monitored metric is that of {kind}, which {rows[kind].sum()} of {counted(len(present), 'pair')} have."
    )
    return (
        f"val: no lesion has {' or '.join(absent)}. Predictions from such images get no calibration and no operating "
        f"points.{judged if kind is not PredictionKind.CROSS else ''}"
    )


def modality_warnings(train: Flags, val: Flags, network: str) -> Iterator[str]:
    """Yield :func:`unlearned` and :func:`unmeasured`, where there is something to say."""
    yield from (text for text in (unlearned(train, network), unmeasured(val)) if text is not None)
