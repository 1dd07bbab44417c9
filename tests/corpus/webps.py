"""WebPs and GIFs."""

import struct
from collections.abc import Callable, Iterator
from itertools import product

import imagecodecs
import numpy as np

from tests.corpus import Specimen
from tests.corpus.pictures import SIZES, Pixels, on_white, picture, rgb

Plan = Callable[[np.random.Generator], Specimen]


def webps() -> Iterator[Plan]:
    """Yield all WebPs."""
    for channels, level in product((3, 4), (None, 50, 90)):
        for _ in range(6):
            yield _webp(channels, level)
    for channels, part, blended in product((3, 4), (False, True), (False, True)):
        yield _animated_webp(channels, part, blended)


def gifs() -> Iterator[Plan]:
    """Yield all GIFs."""
    for size, transparent, part, interlaced in product(
        (2, 4, 16, 128, 256), (False, True), (False, True), (False, True)
    ):
        yield _gif(size, transparent, part, interlaced)


def _webp(channels: int, level: int | None) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, channels, 8)
        data = bytes(imagecodecs.webp_encode(values, 0 if level is None else level, lossless=level is None))

        def reference() -> Pixels:
            shown = imagecodecs.webp_decode(data).astype(float)
            return rgb(on_white(shown[..., :3], shown[..., 3]) if shown.shape[-1] == 4 else shown)

        return Specimen(f"WebP of {channels} channels, level {level}", data, reference)

    return plan


def _animated_webp(channels: int, part: bool, blended: bool) -> Plan:
    """Two pictures, the first of which may leave a margin of the canvas."""

    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, channels, 8)
        height, width = values.shape[:2]
        still = bytes(imagecodecs.webp_encode(values, lossless=True))
        margin = 2 * part
        numbers = (margin // 2, margin // 2, width - 1, height - 1, 100)
        frame = b"".join(number.to_bytes(3, "little") for number in numbers) + bytes([0 if blended else 2])
        frame += still[still.index(b"VP8L") :]
        canvas = b"".join((side + 2 * margin - 1).to_bytes(3, "little") for side in (width, height))
        chunks = [(b"VP8X", bytes([0x12 if channels == 4 else 2, 0, 0, 0]) + canvas), (b"ANIM", bytes(6))]
        chunks += [(b"ANMF", frame)] * 2
        body = b"WEBP" + b"".join(kind + struct.pack("<I", len(content)) + content for kind, content in chunks)
        colors = values.astype(float)
        shown = rgb(on_white(colors[..., :3], colors[..., 3]) if channels == 4 else colors)
        shown = np.pad(shown, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)
        title = f"WebP animation of {channels} channels{', in part' * part}{', blended' * blended}"
        data = b"RIFF" + struct.pack("<I", len(body)) + body
        return Specimen(title, data, lambda: shown, required=not part)

    return plan


def _lzw(values: Pixels, bits: int) -> bytes:
    """Return the codes of GIF's LZW that compress nothing: the table is cleared before it grows."""
    clear, codes = 2**bits, []
    for number, value in enumerate(values.ravel().tolist()):
        if number % (2**bits - 2) == 0:
            codes.append(clear)
        codes.append(value)
    total = "".join(format(code, f"0{bits + 1}b")[::-1] for code in [*codes, clear + 1])
    packed = bytes(int(total[place : place + 8][::-1], 2) for place in range(0, len(total), 8))
    blocks = [packed[place : place + 255] for place in range(0, len(packed), 255)]
    return bytes([bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


def _gif(size: int, transparent: bool, part: bool, interlaced: bool) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        height, width = SIZES[rng.integers(len(SIZES))]
        values = rng.integers(0, size, (height, width))
        colors = rng.integers(0, 256, (size, 3), np.uint8)
        bits = size.bit_length() - 1
        order = [y for first, step in ((0, 8), (4, 8), (2, 4), (1, 2)) for y in range(first, height, step)]
        left, top = (3, 2) if part else (0, 0)
        data = b"GIF89a" + struct.pack("<HHBBB", width + 2 * left, height + 2 * top, 0x80 | bits - 1, 1, 0)
        data += colors.tobytes() + struct.pack("<BBBBHBB", 0x21, 0xF9, 4, transparent, 0, 1, 0)
        data += struct.pack("<BHHHHB", 0x2C, left, top, width, height, 0x40 * interlaced)
        data += _lzw(values[order] if interlaced else values, max(bits, 2)) + b";"

        def reference() -> Pixels:
            shown = colors[values]
            if transparent:
                shown[values == 1] = 255
            # What is around a picture that does not fill the canvas is white, as in browsers.
            return np.pad(shown, ((top, top), (left, left), (0, 0)), constant_values=255)

        title = f"GIF of {size} colors{', transparent' * transparent}{', in part' * part}{', interlaced' * interlaced}"
        return Specimen(title, data, reference, required=not part)

    return plan
