"""JPEG 2000 files and codestreams, with the colors that their stored values mean."""

import io
import struct
from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from tests.corpus import Specimen
from tests.corpus.pictures import Pixels, levels, of_ycc, on_white, picture, rgb

Plan = Callable[[np.random.Generator], Specimen]


def jpeg_2000s() -> Iterator[Plan]:
    """Yield all JPEG 2000 images."""
    for bits, channels, codec, level in product(
        (1, 2, 4, 7, 8, 9, 10, 12, 14, 15, 16), (1, 3), ("jp2", "j2k"), (0, 50)
    ):
        for _ in range(2):
            yield _colors(bits, channels, codec, level)
    for mode, side, irreversible in product(("L", "RGB"), (8, 16, 64), (False, True)):
        yield _tiled(mode, side, irreversible)
    for bits, channels in product((8, 10, 12, 16), (1, 3)):
        yield _signed(bits, channels)
    for bits, channels, alpha in product((8, 12, 16), (1, 3), (1, 2, 65535)):
        yield _with_alpha(bits, channels, alpha)
    for order in permutations(range(3)):
        yield _reordered(order)
    for bits in (8, 12):
        yield _sycc(bits)
    for bits in (1, 4, 8):
        yield _palette(bits)
    for number in (12, 14, 20, 24):
        yield _other_space(number)
    for channels in (2, 4, 5):
        yield _unexplained(channels)


def _encoded(values: Pixels, bits: int, **options: Any) -> bytes:
    pixels = values[..., 0] if values.shape[-1] == 1 else values
    return bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(pixels), bitspersample=bits, **options))


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _file(codestream: bytes, values: Pixels, bits: int, space: int, *boxes: bytes) -> bytes:
    """Return a JP2 file around a codestream, with more boxes in its header."""
    height, width, channels = values.shape
    header = _box(b"ihdr", struct.pack(">IIHBBBB", height, width, channels, bits - 1, 7, 0, 0))
    header += _box(b"colr", struct.pack(">BBBI", 1, 0, 0, space)) + b"".join(boxes)
    start = _box(b"jP  ", b"\r\n\x87\n") + _box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + _box(b"jp2h", header) + _box(b"jp2c", codestream)


def _bare(values: Pixels, bits: int) -> bytes:
    return _encoded(values, bits, codecformat="j2k", level=0, mct=False)


def _colors(bits: int, channels: int, codec: str, level: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, channels, bits)
        data = _encoded(values, bits, codecformat=codec, level=level)

        def reference() -> Pixels:
            return rgb(levels(imagecodecs.jpeg2k_decode(data).astype(float), bits))

        return Specimen(f"JPEG 2000 {channels} x {bits} bits, {codec}, level {level}", data, reference)

    return plan


def _tiled(mode: str, side: int, irreversible: bool) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, len(mode), 8)
        buffer = io.BytesIO()
        image = Image.fromarray(values[..., 0] if mode == "L" else values)
        image.save(buffer, "JPEG2000", tile_size=(side, side), irreversible=irreversible)
        data = buffer.getvalue()
        title = f"JPEG 2000 {mode} in tiles of {side}, {'ir' * irreversible}reversible"
        return Specimen(title, data, lambda: rgb(imagecodecs.jpeg2k_decode(data).astype(float)))

    return plan


def _signed(bits: int, channels: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, channels, bits)
        signed = (values.astype(np.int32) - 2 ** (bits - 1)).astype(np.int8 if bits == 8 else np.int16)
        data = _encoded(signed, bits, codecformat="jp2", level=0)
        return Specimen(
            f"JPEG 2000 {channels} x {bits} signed", data, lambda: rgb(levels(values, bits)), required=False
        )

    return plan


def _with_alpha(bits: int, channels: int, kind: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, channels + 1, bits)
        entries = [(number, 0, number + 1) for number in range(channels)] + [(channels, kind, 0)]
        cdef = _box(b"cdef", struct.pack(">H", len(entries)) + b"".join(struct.pack(">3H", *e) for e in entries))
        data = _file(_bare(values, bits), values, bits, 17 if channels == 1 else 16, cdef)
        shades = levels(values.astype(float), bits)

        def reference() -> Pixels:
            colors = shades[..., :-1]
            if kind == 1:
                colors = on_white(colors, shades[..., -1])
            if kind == 2:
                colors = colors + 255 - shades[..., -1:]
            return rgb(colors)

        return Specimen(f"JPEG 2000 {channels} x {bits} bits and alpha of kind {kind}", data, reference, kind == 1)

    return plan


def _reordered(order: tuple[int, ...]) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 3, 8)
        entries = [(number, 0, color + 1) for number, color in enumerate(order)]
        cdef = _box(b"cdef", struct.pack(">H", 3) + b"".join(struct.pack(">3H", *e) for e in entries))
        data = _file(_bare(values[..., list(order)], 8), values, 8, 16, cdef)
        return Specimen(f"JPEG 2000 of channels {order}", data, lambda: values, order == (0, 1, 2))

    return plan


def _sycc(bits: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 3, bits)
        values[..., 1:] = values[..., 1:] // 4 + 3 * 2 ** (bits - 3)
        data = _file(_bare(values, bits), values, bits, 18)
        return Specimen(
            f"JPEG 2000 sYCC {bits}", data, lambda: rgb(of_ycc(levels(values.astype(float), bits))), bits == 8
        )

    return plan


def _palette(bits: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 1, bits)
        colors = rng.integers(0, 256, (2**bits, 3), np.uint8)
        pclr = _box(b"pclr", struct.pack(">HB3B", len(colors), 3, 7, 7, 7) + colors.tobytes())
        cmap = _box(b"cmap", b"".join(struct.pack(">HBB", 0, 1, number) for number in range(3)))
        data = _file(_bare(values, bits), values, bits, 16, pclr, cmap)
        return Specimen(f"JPEG 2000 palette of {bits} bits", data, lambda: colors[values[..., 0]], required=False)

    return plan


def _other_space(number: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 4 if number == 12 else 3, 8)
        data = _file(_bare(values, 8), values, 8, number)
        # No formula here: not to be read.
        return Specimen(f"JPEG 2000 of space {number}", data, lambda: np.zeros((1, 1, 3), np.uint8), required=False)

    return plan


def _unexplained(channels: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        data = _bare(picture(rng, channels, 8), 8)
        return Specimen(
            f"JPEG 2000 of {channels} components", data, lambda: np.zeros((1, 1, 3), np.uint8), required=False
        )

    return plan
