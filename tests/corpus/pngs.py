"""PNGs, with the colors that their stored values mean (W3C PNG)."""

import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from tests.corpus import Specimen
from tests.corpus.pictures import Pixels, levels, on_white, picture, rgb

Plan = Callable[[np.random.Generator], Specimen]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row and column, and steps down and across (Adam7)."""
SRGB_CICP, P3_CICP, PQ_CICP = b"\x01\x0d\x00\x01", b"\x0c\x0d\x00\x01", b"\x09\x10\x00\x01"


def pngs() -> Iterator[Plan]:
    """Yield all PNGs."""
    layouts = [(color, bits) for color, depths in DEPTHS.items() for bits in depths]
    for (color, bits), interlaced, transparent in product(layouts, (False, True), (False, True)):
        if transparent and color >= 4:
            continue
        for _ in range(4):
            required = not transparent or (color, bits) not in ((0, 2), (0, 4), (2, 16))
            yield _png(color, bits, interlaced, transparent, required=required)
    for (color, bits), (name, chunks, gamma, required) in product(layouts, CHUNKS):
        yield _png(color, bits, False, False, name, chunks, gamma, required and (bits < 16 or gamma is None))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _gamma(value: int) -> bytes:
    return _chunk(b"gAMA", struct.pack(">I", value))


CHUNKS = (
    ("gAMA of sRGB", _gamma(45455), None, True),
    ("gAMA 1.0", _gamma(100000), 1.0, True),
    ("gAMA 1/1.8", _gamma(55556), 0.55556, True),
    ("gAMA 1.0 and sRGB", _chunk(b"sRGB", b"\0") + _gamma(100000), None, True),
    ("cICP of sRGB", _chunk(b"cICP", SRGB_CICP), None, True),
    ("cICP of P3", _chunk(b"cICP", P3_CICP), -1.0, False),
    ("cICP of PQ", _chunk(b"cICP", PQ_CICP), -1.0, False),
    ("CgBI", _chunk(b"CgBI", b"\x50\0\x20\2"), -1.0, False),
    (
        "cHRM of Adobe RGB",
        _chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)),
        -1.0,
        False,
    ),
)
"""Name, chunks before the pixels, their gamma (none where the values are sRGB, -1 where they must not be read), required."""


def _rows(values: Pixels, bits: int) -> bytes:
    """Return rows of values with a filter byte each."""
    rows = values.reshape(len(values), -1)
    if bits == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        digits = (rows[..., None] >> np.arange(bits)[::-1]) & 1
        packed = np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def _png(
    color: int,
    bits: int,
    interlaced: bool,
    transparent: bool,
    name: str = "",
    chunks: bytes = b"",
    gamma: float | None = None,
    required: bool = True,
) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, CHANNELS[color], bits)
        height, width, _ = values.shape
        if gamma is not None and color >= 4:
            values[..., -1] = 2**bits - 1
        header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced))
        palette = rng.integers(0, 256, (2**bits if bits < 16 else 0, 3), np.uint8)
        opacity = rng.integers(0, 256, len(palette), np.uint8)
        more = chunks
        if color == 3:
            more += _chunk(b"PLTE", palette.tobytes())
        key = values[height // 2, width // 2]
        if transparent:
            content = opacity.tobytes() if color == 3 else struct.pack(f">{len(key)}H", *key.tolist())
            more += _chunk(b"tRNS", content)
        if interlaced:
            parts = [values[y::down, x::across] for y, x, down, across in PASSES]
            raw = b"".join(_rows(part, bits) for part in parts if part.size)
        else:
            raw = _rows(values, bits)
        data = b"\x89PNG\r\n\x1a\n" + header + more + _chunk(b"IDAT", zlib.compress(raw)) + _chunk(b"IEND", b"")

        def reference() -> Pixels:
            shades = levels(values.astype(float), bits)
            if color == 3:
                shown = palette[values[..., 0]].astype(float)
                alpha = opacity[values[..., 0]] if transparent else None
            elif color >= 4:
                shown, alpha = shades[..., :-1], shades[..., -1]
            else:
                shown = shades
                alpha = 255.0 * (values != key).any(-1) if transparent else None
            if gamma is not None:
                shown = 255 * (shown / 255) ** (1 / (2.2 * gamma)) if gamma > 0 else np.zeros((1, 1, 3))
            return rgb(shown if alpha is None else on_white(shown, alpha.astype(float)))

        words = f"{'interlaced ' * interlaced}{'transparent ' * transparent}{name}"
        return Specimen(f"PNG color {color}, {bits} bits, {words}", data, reference, required)

    return plan
