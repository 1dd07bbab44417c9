"""Images and files made for tests."""

import io
import struct

import numpy as np
from PIL import Image

from derm_ray.data.decode import decode


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 20) -> Image.Image:
    x = np.linspace(0, 255, width, dtype=np.uint8)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[: height // 2, :, 2] = x, 255
    return Image.fromarray(pixels)


def decoded(data: bytes) -> np.ndarray:
    image = decode(data).image
    assert image.mode == "RGB"
    return np.asarray(image)


def matrix_profile(gamma: float, primaries: list[tuple[float, float]]) -> bytes:
    """A minimal ICC v2 matrix profile with one gamma and three primaries (CIE xy), white D50."""
    white = np.array([0.9642, 1.0, 0.8249])
    xyz = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries]).T
    columns = xyz * np.linalg.solve(xyz, white)

    def fixed(values: np.ndarray) -> bytes:
        return struct.pack(">3i", *(round(v * 65536) for v in values))

    def point(values: np.ndarray) -> bytes:
        return b"XYZ \0\0\0\0" + fixed(values)

    curve = b"curv\0\0\0\0" + struct.pack(">IHxx", 1, round(gamma * 256))
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 79
    tags = [(b"desc", name), (b"wtpt", point(white)), (b"cprt", b"text\0\0\0\0none\0\0\0\0")]
    tags += [(f"{c}XYZ".encode(), point(columns[:, i])) for i, c in enumerate("rgb")]
    tags += [(f"{c}TRC".encode(), curve) for c in "rgb"]
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, data in tags:
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4s", offset + len(body), b"\0" * 4) + b"\x02\x10\0\0mntrRGB XYZ " + b"\0" * 12 + b"acsp"
    head = head.ljust(68, b"\0") + fixed(white)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


WIDE_GAMUT = matrix_profile(2.2, [(0.7347, 0.2653), (0.1152, 0.8264), (0.1566, 0.0177)])


RAMP = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (8, 1))


def photo(width: int, height: int) -> Image.Image:
    """Smooth, as skin is, with an edge."""
    y, x = np.mgrid[:height, :width]
    spot = np.hypot(x / width - 0.4, y / height - 0.6) < 0.2
    pixels = np.stack([200 - 40 * x / width, 140 - 30 * y / height, 110 + 20 * x / width], -1)
    pixels[spot] *= 0.5
    return Image.fromarray(pixels.astype(np.uint8))
