"""From upright RGB pixels to the square uint8 arrays that every model takes."""

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from derm_ray.data.decode import MAX_PIXELS, decode, read_image
from derm_ray.errors import BundleError, ImageError
from derm_ray.vocabulary import LesionPair, Modality

Pixels = npt.NDArray[np.uint8]
"""One preprocessed image: (size, size, 3) uint8, RGB, 0..255."""


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become network input; sealed into every bundle.

    Attributes:
        size: side of the square in pixels; the whole image is stretched onto it (bilinear, antialiased),
            so that a lesion near the border is never cut off.
        mean, std: per-channel normalisation of RGB in 0..1, applied inside the engine.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON types."""
        return {"resize": "stretch-bilinear", **asdict(self)}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> "Preprocessing":
        """Read a specification back.

        Raises:
            BundleError: it asks for a resize this version does not have.
        """
        if spec.get("resize") != "stretch-bilinear":
            raise BundleError(f"preprocessing asks for resize {spec.get('resize')!r}; this version does not have it.")
        return cls(int(spec["size"]), tuple(spec["mean"]), tuple(spec["std"]))

    def resize(self, image: Image.Image) -> Pixels:
        """Return the image's pixels on the square."""
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class PairPixels:
    """The preprocessed images of one pair; ``None`` for the one that is not given."""

    clinical: Pixels | None
    dermoscopy: Pixels | None

    def __post_init__(self) -> None:
        assert self.clinical is not None or self.dermoscopy is not None, "a pair has at least one image"

    @property
    def modality(self) -> str:
        """``both``, or the name of the only modality given."""
        if self.clinical is not None and self.dermoscopy is not None:
            return "both"
        return Modality.CLINICAL if self.clinical is not None else Modality.DERMOSCOPY


def pixels_from_bytes(
    clinical: bytes | None, dermoscopy: bytes | None, spec: Preprocessing, *, max_pixels: int = MAX_PIXELS
) -> PairPixels:
    """Decode and resize a pair given as encoded bytes.

    Raises:
        ImageError: an image cannot be decoded; the message names its modality.
    """

    def one(data: bytes | None, modality: Modality) -> Pixels | None:
        if data is None:
            return None
        try:
            return spec.resize(decode(data, max_pixels=max_pixels))
        except ImageError as error:
            raise ImageError(error.code, f"{modality} image: {error.message}") from error

    return PairPixels(one(clinical, Modality.CLINICAL), one(dermoscopy, Modality.DERMOSCOPY))


def load_pairs(
    pairs: list[LesionPair], spec: Preprocessing, executor: Executor, *, max_pixels: int = MAX_PIXELS
) -> list[PairPixels | ImageError]:
    """Read, decode and resize the images of many pairs at once.

    Args:
        pairs: what to load; images without a URI are skipped.
        spec: target size.
        executor: runs one task per image.
        max_pixels: see :func:`derm_ray.data.decode.decode`.

    Returns:
        One entry per pair, in order: its pixels, or the error of its first image that cannot be used.
    """

    def load(uri: str) -> Pixels:
        return spec.resize(read_image(uri, max_pixels=max_pixels))

    futures = [{m: executor.submit(load, uri) for m in Modality if (uri := pair.uri(m)) is not None} for pair in pairs]
    results: list[PairPixels | ImageError] = []
    for loading in futures:
        try:
            images = {modality: future.result() for modality, future in loading.items()}
        except ImageError as error:
            results.append(error)
        else:
            results.append(PairPixels(images.get(Modality.CLINICAL), images.get(Modality.DERMOSCOPY)))
    return results
