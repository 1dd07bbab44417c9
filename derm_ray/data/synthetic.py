"""Synthetic lesion pairs: the diagnosis can be determined from both images only."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter

from derm_ray import storage
from derm_ray.data.manifest import Manifest, normalize_schema, write_manifest
from derm_ray.domain import LabelSet

LEVELS = 4
"""The class index is ``LEVELS * color + pattern``: the clinical image shows only the color of the lesion, the
dermoscopy image only the pattern inside it, so that either alone leaves about LEVELS classes open. Neighbors in the
label set share a color: the cancers of ``paper15`` do, so that the clinical image alone tells cancer apart."""

_COLORS = ((122, 74, 46), (188, 62, 66), (62, 52, 70), (214, 160, 104))
_PIGMENT = (92, 56, 40)
_Generator = np.random.Generator
_Floats = npt.NDArray[np.float64]


def synthesize(out_uri: str, pairs: int, label_set: LabelSet, *, seed: int = 0, size: int = 160) -> Manifest:
    """Write ``pairs`` synthetic lesion pairs (JPEG) and ``manifest.parquet`` into a folder.

    Classes are balanced. Ages, sexes and sites are random and carry no information.

    Args:
        out_uri: the folder; images go to ``images/``.
        pairs: how many.
        label_set: at most 16 classes are drawn from it, the first ones.
        seed: the same seed gives the same bytes.
        size: side of the images in pixels.

    Returns:
        The manifest as written, not yet split.
    """
    classes = label_set.class_names[: LEVELS * LEVELS]
    rows: list[dict[str, object]] = []
    for index in range(pairs):
        generator = np.random.default_rng((seed, index))
        diagnosis = index % len(classes)
        color, pattern = divmod(diagnosis, LEVELS)
        lesion_id = f"SYN_{index:06d}"
        images = {"clinical": _clinical(generator, color, size), "dermoscopy": _dermoscopy(generator, pattern, size)}
        for modality, image in images.items():
            buffer = BytesIO()
            image.save(buffer, "JPEG", quality=90)
            storage.write_bytes(storage.join(out_uri, "images", lesion_id, f"{modality}.jpg"), buffer.getvalue())
        rows.append(
            {
                "lesion_id": lesion_id,
                "clinical_uri": f"images/{lesion_id}/clinical.jpg",
                "dermoscopy_uri": f"images/{lesion_id}/dermoscopy.jpg",
                "diagnosis": classes[diagnosis],
                "age": float(generator.integers(20, 91)),
                "sex": ("female", "male")[generator.integers(2)],
                "site": ("trunk", "head_neck_face", "lower_extremity")[generator.integers(3)],
            }
        )
    uri = storage.join(storage.absolute(out_uri), "manifest.parquet")
    manifest = normalize_schema(pa.Table.from_pylist(rows), uri)
    write_manifest(manifest, uri)
    return manifest


def _skin(generator: _Generator, size: int) -> _Floats:
    """Return skin with uneven light: (size, size, 3), 0..255."""
    tone = np.array((236, 198, 178)) - generator.uniform(0, 1) * np.array((96, 104, 100))
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    slope = generator.uniform(-25, 25, 2)
    light = slope[0] * x + slope[1] * y
    return np.asarray(tone + light[..., None] + generator.normal(0, 6, (size, size, 1)))


def _outline(generator: _Generator, size: int) -> tuple[_Floats, float, float, float]:
    """Return a soft lobed mask (size, size) in 0..1, its center and its radius in pixels."""
    center = generator.uniform(0.42, 0.58, 2) * size
    radius = generator.uniform(0.22, 0.34) * size
    y, x = np.mgrid[0:size, 0:size]
    angle = np.arctan2(y - center[0], x - center[1])
    border = radius * np.ones((size, size))
    for lobes in (2, 3, 5):
        border += radius * generator.uniform(0, 0.1) * np.cos(lobes * angle + generator.uniform(0, 2 * np.pi))
    distance = np.hypot(y - center[0], x - center[1])
    return np.clip((border - distance) / 4 + 0.5, 0, 1), center[0], center[1], radius


def _blend(skin: _Floats, lesion: _Floats, mask: _Floats) -> Image.Image:
    pixels = skin * (1 - mask[..., None]) + lesion * mask[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _clinical(generator: _Generator, color: int, size: int) -> Image.Image:
    mask = _outline(generator, size)[0]
    tint = np.array(_COLORS[color]) + generator.normal(0, 8)
    lesion = tint + generator.normal(0, 10, (size, size, 1))
    return _blend(_skin(generator, size), lesion, mask).filter(ImageFilter.GaussianBlur(0.8))


def _dermoscopy(generator: _Generator, pattern: int, size: int) -> Image.Image:
    mask, y, x, radius = _outline(generator, size)
    tint = np.array((176, 126, 96)) + generator.normal(0, 10)
    drawing = Image.new("L", (size, size))
    _PATTERNS[pattern](ImageDraw.Draw(drawing), generator, y, x, radius)
    ink = np.asarray(drawing, float)[..., None] / 255
    lesion = tint * (1 - ink) + np.array(_PIGMENT) * ink + generator.normal(0, 5, (size, size, 1))
    return _blend(_skin(generator, size), lesion, mask)


def _network(draw: ImageDraw.ImageDraw, generator: _Generator, y: float, x: float, radius: float) -> None:
    step = radius / generator.uniform(3.5, 4.5)
    for i in range(-6, 7):
        draw.line([(x - 2 * radius, y + i * step), (x + 2 * radius, y + i * step)], fill=255, width=3)
        draw.line([(x + i * step, y - 2 * radius), (x + i * step, y + 2 * radius)], fill=255, width=3)


def _globules(draw: ImageDraw.ImageDraw, generator: _Generator, y: float, x: float, radius: float) -> None:
    for _ in range(30):
        dy, dx = generator.uniform(-radius, radius, 2)
        draw.circle((x + dx, y + dy), generator.uniform(0.06, 0.12) * radius, fill=255)


def _streaks(draw: ImageDraw.ImageDraw, generator: _Generator, y: float, x: float, radius: float) -> None:
    start = generator.uniform(0, np.pi)
    for angle in start + np.linspace(0, 2 * np.pi, 14, endpoint=False):
        dy, dx = np.array((np.cos(angle), np.sin(angle))) * radius
        draw.line([(x + 0.3 * dx, y + 0.3 * dy), (x + 1.4 * dx, y + 1.4 * dy)], fill=255, width=4)


def _structureless(draw: ImageDraw.ImageDraw, generator: _Generator, y: float, x: float, radius: float) -> None:
    draw.circle((x, y), generator.uniform(0.4, 0.7) * radius, fill=140)


_PATTERNS: tuple[Callable[[ImageDraw.ImageDraw, _Generator, float, float, float], None], ...] = (
    _network,
    _globules,
    _streaks,
    _structureless,
)
