"""What a photo costs before the network sees it."""

import io
from functools import partial
from time import perf_counter

import numpy as np
from PIL import Image

from derm_ray.data.preprocessing import Preprocessing, image_from_bytes
from derm_ray.studies.benchmark.comparison import Effort, Row, compare
from derm_ray.vocabulary import Modality

WIDTH, HEIGHT, QUALITY = 4000, 3000, 90


def scaled_decoding(effort: Effort) -> Row:
    """Decode and resize a photo of 12 megapixels at the smallest sufficient scale, and in full."""
    data = _photo()
    ours, other = (partial(_milliseconds, data, Preprocessing(scaled=scaled), effort) for scaled in (True, False))
    what = "12-megapixel JPEG to 224 px: scaled / full decoding"
    return compare("decoding", what, ours, other, effort, unit="ms", bound=0.35, at_most=True)


def _milliseconds(data: bytes, spec: Preprocessing, effort: Effort) -> float:
    count, began = 0, perf_counter()
    while (elapsed := perf_counter() - began) < effort.seconds / 4 or not count:
        image_from_bytes(Modality.CLINICAL, data, spec)
        count += 1
    return 1000 * elapsed / count


def _photo() -> bytes:
    """Return a JPEG with the detail of skin: smooth shades and fine noise, about 3 MB."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shade = np.stack([205 - x / 80, 150 - y / 60, 120 + x / 160], -1)
    shade[np.hypot(x - 1800, y - 1500) < 700] *= 0.6
    pixels = (shade + generator.normal(0, 6, shade.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
