"""Loading the images of many pairs, all of which must be readable."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_pairs
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ImageError, ManifestError

CHUNK = 256
THREADS = 8


def load_all(
    pairs: Sequence[LesionPair], spec: Preprocessing, uri: str, *, chunk: int = CHUNK
) -> Iterator[list[PairPixels]]:
    """Yield the preprocessed pairs, in order and by the chunk.

    Args:
        pairs: what to load.
        spec: target size.
        uri: the manifest's, for the error.
        chunk: pairs in memory at once.

    Raises:
        ManifestError: images cannot be used; raised at the end, all are listed.
    """
    problems: list[str] = []
    with ThreadPoolExecutor(THREADS) as executor:
        for start in range(0, len(pairs), chunk):
            some = list(pairs[start : start + chunk])
            loaded = load_pairs(some, spec, executor)
            problems += [
                f"pair {pair.pair_id}: {result.message}"
                for result, pair in zip(loaded, some, strict=True)
                if isinstance(result, ImageError)
            ]
            yield [result for result in loaded if isinstance(result, PairPixels)]
    if problems:
        raise ManifestError(uri, problems)


def pair_images(pairs: Sequence[LesionPair], spec: Preprocessing, uri: str) -> dict[Modality, npt.NDArray[np.uint8]]:
    """Return the images of pairs that have both, (N, size, size, 3) each, in order; see :func:`load_all`."""
    loaded = [pixels for chunk in load_all(pairs, spec, uri) for pixels in chunk]
    return {m: np.stack([image for pixels in loaded if (image := pixels.of(m)) is not None]) for m in Modality}
