"""BMPs of Windows and OS/2, with the colors that their stored values mean."""

import struct
from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from tests.corpus import Specimen
from tests.corpus.pictures import Pixels, levels, on_white, picture, rgb

Plan = Callable[[np.random.Generator], Specimen]
MASKS = {
    "565": (16, (0xF800, 0x7E0, 0x1F, 0), True),
    "555": (16, (0x7C00, 0x3E0, 0x1F, 0), True),
    "1555": (16, (0x7C00, 0x3E0, 0x1F, 0x8000), False),
    "4444": (16, (0xF00, 0xF0, 0xF, 0xF000), False),
    "BGRX": (32, (0xFF0000, 0xFF00, 0xFF, 0), True),
    "RGBX": (32, (0xFF, 0xFF00, 0xFF0000, 0), False),
    "BGRA": (32, (0xFF0000, 0xFF00, 0xFF, 0xFF000000), True),
    "RGBA": (32, (0xFF, 0xFF00, 0xFF0000, 0xFF000000), True),
    "ABGR": (32, (0xFF000000, 0xFF0000, 0xFF00, 0xFF), False),
    "10 bits": (32, (0x3FF00000, 0xFFC00, 0x3FF, 0), False),
    "none": (32, (0, 0, 0, 0), False),
}
HEADERS = (12, 40, 52, 56, 64, 108, 124)


def bmps() -> Iterator[Plan]:
    """Yield all BMPs."""
    for bits, header, down in product((1, 4, 8, 16, 24, 32), HEADERS, (False, True)):
        if header != 12 or (bits != 16 and bits != 32 and not down):
            yield _plain(bits, header, down)
    for bits, header in product((1, 4, 8), (40, 108, 124)):
        yield _plain(bits, header, False, "gray")
        if bits == 8:
            yield _plain(bits, header, False, "identity")
        if bits > 1:
            yield _plain(bits, header, False, "two")
        yield _plain(bits, header, False, "short")
    for name, header in product(MASKS, (40, 52, 56, 108, 124)):
        yield _masked(name, header)
    for bits, header in product((4, 8), (40, 108, 124)):
        yield _rle(bits, header)


def _file(
    pixels: bytes, width: int, height: int, bits: int, header: int, packing: int = 0, masks: tuple[int, ...] = (),
    palette: bytes = b"", colors: int = 0,
) -> bytes:  # fmt: skip
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, width, height, 1, bits, packing, len(pixels), 0, 0, colors, 0)
        if masks:
            info += struct.pack("<4I", *masks)[: 12 if header < 56 else 16]
        if header >= 108:
            info = info.ljust(56, b"\0") + b"BGRs"  # sRGB
        info = info.ljust(header, b"\0")
    start = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + palette + pixels


def _rows(values: Pixels, bits: int, down: bool) -> bytes:
    """Return rows, the lowest first, each in whole words of 32 bits."""
    rows = values if down else values[::-1]
    if bits < 8:
        digits = (rows[..., None] >> np.arange(bits)[::-1]) & 1
        rows = np.packbits(digits.reshape(len(rows), -1).astype(np.uint8), axis=1)
    packed = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)
    return np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4))).tobytes()


def _palette(kind: str, bits: int, rng: np.random.Generator) -> Pixels:
    colors = rng.integers(0, 256, (2**bits, 3), np.uint8)
    if kind == "gray":
        colors = np.rint(levels(np.arange(2**bits), bits)).astype(np.uint8)[:, None].repeat(3, 1)
    if kind == "identity":
        colors = np.arange(2**bits, dtype=np.uint8)[:, None].repeat(3, 1)
    if kind == "two":
        colors = np.array([[0] * 3, [255] * 3], np.uint8)
    return colors[: max(len(colors) // 2, 2)] if kind == "short" else colors


def _plain(bits: int, header: int, down: bool, kind: str = "color") -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 1 if bits <= 8 else 3, min(bits, 8))
        height, width, _ = values.shape
        palette, shown = b"", levels(values.astype(float), 8)
        colors = 0
        if bits <= 8:
            entries = _palette(kind, bits, rng)
            index = (values[..., 0].astype(int) % len(entries)).astype(np.uint8)
            shown = entries[index].astype(float)
            palette = np.pad(entries[:, ::-1], ((0, 0), (0, header != 12))).tobytes()
            colors = len(entries) if kind in ("short", "two") else 0
            stored = index
        elif bits == 16:
            five = values >> 3
            shown = levels(five.astype(float), 5)
            stored = (five.astype(np.uint16) << [10, 5, 0]).sum(-1).astype("<u2")
        else:
            stored = values[..., ::-1]
            if bits == 32:
                stored = np.pad(stored, ((0, 0), (0, 0), (0, 1)))
        pixels = _rows(stored, bits, down)
        data = _file(pixels, width, -height if down else height, bits, header, palette=palette, colors=colors)
        title = f"BMP of {bits} bits, {kind}, header {header}{', top down' * down}"
        return Specimen(
            title, data, lambda: rgb(shown), required=header in (12, 40, 108, 124) and kind not in ("identity", "two")
        )

    return plan


def _masked(name: str, header: int) -> Plan:
    bits, masks, required = MASKS[name]

    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 4, 8)
        height, width, _ = values.shape
        stored = np.zeros((height, width), np.uint32)
        shown = np.zeros((height, width, 4))
        for channel, mask in enumerate(masks):
            if depth := mask.bit_count():
                part = (values[..., channel].astype(np.uint32) << 2) >> (10 - depth)
                stored |= part << ((mask & -mask).bit_length() - 1)
                shown[..., channel] = levels(part.astype(float), depth)
        opaque = masks[3] == 0 or header < 56
        pixels = _rows(stored.astype("<u2" if bits == 16 else "<u4"), bits, False)
        fields = struct.pack("<3I", *masks[:3]) if header == 40 else b""
        data = _file(pixels, width, height, bits, header, 3, () if header == 40 else masks, palette=fields)

        def reference() -> Pixels:
            return rgb(shown[..., :3] if opaque else on_white(shown[..., :3], shown[..., 3]))

        return Specimen(
            f"BMP masks {name}, header {header}",
            data,
            reference,
            required and header in (40, 108, 124) and not (header == 40 and masks[3] and name == "RGBA"),
        )

    return plan


def _rle(bits: int, header: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        height, width = 17, 33
        values = rng.integers(0, 2**bits, (height, 11), np.uint8).repeat(3, 1)
        colors = rng.integers(0, 256, (2**bits, 3), np.uint8)
        pixels = b""
        for row in values[::-1]:
            for place in range(0, width, 3):
                pixels += bytes([3, row[place] * (17 if bits == 4 else 1)])
            pixels += b"\0\0"
        palette = np.pad(colors[:, ::-1], ((0, 0), (0, 1))).tobytes()
        data = _file(pixels + b"\0\1", width, height, bits, header, 1 if bits == 8 else 2, palette=palette)
        return Specimen(f"BMP RLE of {bits} bits, header {header}", data, lambda: colors[values], required=True)

    return plan
