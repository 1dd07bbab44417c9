"""Cost of decoding a photo."""

from functools import partial
from time import perf_counter

from derm_ray.data.decode import decode
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.studies.benchmark.comparison import Effort, Row, compare
from derm_ray.studies.benchmark.materials import photo


def scaled_decoding(effort: Effort) -> Row:
    """Decode and resize a photo of 12 megapixels at the smallest sufficient scale, and in full."""
    data, size = photo(), Preprocessing().size
    ours, other = (partial(_milliseconds, data, side, effort) for side in (size, None))
    what = "12-megapixel JPEG to 224 px: scaled / full decoding"
    return compare("decoding", what, ours, other, effort, unit="ms", threshold=0.35, at_most=True)


def _milliseconds(data: bytes, side: int | None, effort: Effort) -> float:
    count, began = 0, perf_counter()
    while (elapsed := perf_counter() - began) < effort.seconds / 4 or not count:
        Preprocessing().resize(decode(data, side=side).image)
        count += 1
    return 1000 * elapsed / count
