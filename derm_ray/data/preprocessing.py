"""From upright RGB pixels to the square uint8 arrays that every model takes."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.decode import decode
from derm_ray.domain import LesionPair, Modality, PatientValues
from derm_ray.errors import BundleError, ImageError

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
Pixels = npt.NDArray[np.uint8]
"""One preprocessed image: (size, size, 3) uint8, RGB, 0..255."""


@dataclass(frozen=True)
class Preprocessing:
    """How pixels become network input; sealed into every bundle.

    Attributes:
        size: side of the square in pixels; the whole image is stretched onto it (antialiased), so that a lesion near
            the border is never cut off. JPEG photos are decoded at the smallest scale that is not below it.
        interpolation: a key of :data:`INTERPOLATIONS`.
    """

    size: int = 224
    interpolation: str = "bilinear"

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON types."""
        return {"resize": "stretch", **asdict(self)}

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> "Preprocessing":
        """Read a specification back.

        Raises:
            BundleError: it asks for a resize this version does not have.
        """
        if spec.get("resize") != "stretch" or spec.get("interpolation") not in INTERPOLATIONS:
            raise BundleError(f"unknown preprocessing {dict(spec)}. Train the model again.")
        return cls(int(spec["size"]), spec["interpolation"])

    def resize(self, image: Image.Image) -> Pixels:
        """Return the image's pixels on the square."""
        return np.asarray(image.resize((self.size, self.size), INTERPOLATIONS[self.interpolation]))


@dataclass(frozen=True)
class LoadedImage:
    """One preprocessed image.

    Attributes:
        pixels: see :data:`Pixels`.
        shorter_side: of the image as it was stored, in pixels.
        flags: values of :class:`derm_ray.domain.ImageFlag`.
        read_s, decode_s: seconds spent on reading the bytes, and on decoding and resizing them.
    """

    pixels: Pixels
    shorter_side: int
    flags: tuple[str, ...] = ()
    read_s: float = 0.0
    decode_s: float = 0.0


@dataclass(frozen=True)
class PairPixels:
    """The preprocessed images of one pair; ``None`` for the one that is not given.

    Attributes:
        clinical, dermoscopy: see :data:`Pixels`.
        flags: modality and :class:`derm_ray.domain.ImageFlag`, such as ``clinical:animated``.
        read_s, decode_s: seconds spent on both images; they may have been loaded at the same time.
        patient: patient data of the lesion, empty where none is known or no model asks for it.
        further: modality -> its images beyond the first, where it has several.
    """

    clinical: Pixels | None
    dermoscopy: Pixels | None
    flags: tuple[str, ...] = ()
    read_s: float = 0.0
    decode_s: float = 0.0
    patient: PatientValues = field(default_factory=dict)
    further: Mapping[Modality, tuple[Pixels, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.clinical is not None or self.dermoscopy is not None, "a pair has at least one image"

    @property
    def modality(self) -> str:
        """``both``, or the name of the only modality given."""
        if self.clinical is not None and self.dermoscopy is not None:
            return "both"
        return Modality.CLINICAL if self.clinical is not None else Modality.DERMOSCOPY

    def of(self, modality: Modality) -> Pixels | None:
        """Return the image of one modality, the first where there are several."""
        return self.clinical if modality is Modality.CLINICAL else self.dermoscopy

    def all_of(self, modality: Modality) -> tuple[Pixels, ...]:
        """Return all images of one modality."""
        first = self.of(modality)
        return () if first is None else (first, *self.further.get(modality, ()))

    @property
    def counts(self) -> dict[Modality, int]:
        """Return the number of images of each modality that is given."""
        return {m: len(self.all_of(m)) for m in Modality if self.of(m) is not None}

    def views(self) -> "list[PairPixels]":
        """Return as many pairs of single images as the modality with more images has; the others repeat in order."""
        if not self.further:
            return [self]
        clinical, dermoscopy = (self.all_of(modality) or (None,) for modality in Modality)
        return [
            replace(
                self, further={}, clinical=clinical[at % len(clinical)], dermoscopy=dermoscopy[at % len(dermoscopy)]
            )
            for at in range(max(len(clinical), len(dermoscopy)))
        ]


def to_pair(images: Mapping[Modality, Sequence[LoadedImage]], patient: PatientValues | None = None) -> PairPixels:
    """Return the images of one pair together, one of them at least, with its patient data."""
    first = {modality: loaded[0].pixels for modality, loaded in images.items()}
    every = [image for loaded in images.values() for image in loaded]
    flags = (f"{m}:{flag}" for m in Modality for image in images.get(m, ()) for flag in image.flags)
    return PairPixels(
        first.get(Modality.CLINICAL),
        first.get(Modality.DERMOSCOPY),
        tuple(dict.fromkeys(flags)),
        sum(image.read_s for image in every),
        sum(image.decode_s for image in every),
        patient or {},
        {m: tuple(image.pixels for image in loaded[1:]) for m, loaded in images.items() if len(loaded) > 1},
    )


def _prepare(data: bytes, spec: Preprocessing, what: str, read_s: float = 0.0) -> LoadedImage:
    started = perf_counter()
    try:
        decoded = decode(data, side=spec.size)
        pixels = spec.resize(decoded.image)
    except ImageError as error:
        raise ImageError(error.code, f"{what}: {error.message}") from error
    return LoadedImage(pixels, decoded.shorter_side, decoded.flags, read_s, perf_counter() - started)


def image_from_bytes(modality: Modality, data: bytes, spec: Preprocessing) -> LoadedImage:
    """Decode and resize one image given as encoded bytes.

    Raises:
        ImageError: it cannot be decoded; the message names its modality.
    """
    return _prepare(data, spec, f"{modality} image")


def pixels_from_bytes(clinical: bytes | None, dermoscopy: bytes | None, spec: Preprocessing) -> PairPixels:
    """Decode and resize a pair given as encoded bytes; see :func:`image_from_bytes`."""
    given = zip(Modality, (clinical, dermoscopy), strict=True)
    return to_pair({m: [image_from_bytes(m, data, spec)] for m, data in given if data is not None})


def load_image(
    uri: str, spec: Preprocessing, reader: ImageReader, decoding: AbstractContextManager[object] | None = None
) -> LoadedImage:
    """Read, decode and resize one image.

    Args:
        uri, spec, reader: see :func:`load_pairs`.
        decoding: entered while it is decoded and resized.

    Raises:
        ImageError: it cannot be used; the message names the URI.
    """
    started = perf_counter()
    data = reader.read(uri)
    read_s = perf_counter() - started
    with decoding or nullcontext():
        return _prepare(data, spec, uri, read_s)


def load_pairs(
    pairs: list[LesionPair],
    spec: Preprocessing,
    executor: Executor,
    *,
    reader: ImageReader | None = None,
    decoding: AbstractContextManager[object] | None = None,
) -> list[PairPixels | ImageError]:
    """Read, decode and resize the images of many pairs at once.

    Args:
        pairs: what to load; images without a URI are skipped.
        spec: target size.
        executor: runs one task per image.
        reader: reads the bytes; ``None`` for one of its own for these pairs.
        decoding: entered while an image is decoded, such as a semaphore that keeps it to fewer threads than read.

    Returns:
        One entry per pair, in order: its pixels, or the error of its first image that cannot be used.
    """
    wanted = [{m: uris for m in Modality if (uris := pair.uris(m))} for pair in pairs]
    every = (uri for images in wanted for uris in images.values() for uri in uris)
    own = ImageReader(every) if reader is None else nullcontext(reader)
    with own as source:
        futures = [
            {
                m: [executor.submit(load_image, uri, spec, source, decoding) for uri in uris]
                for m, uris in images.items()
            }
            for images in wanted
        ]
        wait([future for loading in futures for some in loading.values() for future in some])
    results: list[PairPixels | ImageError] = []
    for pair, loading in zip(pairs, futures, strict=True):
        try:
            loaded = {modality: [future.result() for future in some] for modality, some in loading.items()}
            results.append(to_pair(loaded, pair.patient))
        except ImageError as error:
            results.append(error)
    return results
