"""Cost of decoding a photo."""

from functools import partial
from time import perf_counter

from derm_ray.data.preprocessing import Preprocessing, image_from_bytes
from derm_ray.domain import Modality
from derm_ray.studies.benchmark.comparison import Effort, Row, compare
from derm_ray.studies.benchmark.materials import photo


def scaled_decoding(effort: Effort) -> Row:
    """Decode and resize a photo of 12 megapixels at the smallest sufficient scale, and in full."""
    data = photo()
    ours, other = (partial(_milliseconds, data, Preprocessing(scaled=scaled), effort) for scaled in (True, False))
    what = "12-megapixel JPEG to 224 px: scaled / full decoding"
    return compare("decoding", what, ours, other, effort, unit="ms", threshold=0.35, at_most=True)


def _milliseconds(data: bytes, spec: Preprocessing, effort: Effort) -> float:
    count, began = 0, perf_counter()
    while (elapsed := perf_counter() - began) < effort.seconds / 4 or not count:
        image_from_bytes(Modality.CLINICAL, data, spec)
        count += 1
    return 1000 * elapsed / count
