"""JPEGs of all kinds, decoded by imagecodecs, and of kinds that are not read."""

import io
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image

from tests.corpus import Specimen
from tests.corpus.pictures import Pixels, levels, of_inks, picture, rgb

Plan = Callable[[np.random.Generator], Specimen]


def jpegs() -> Iterator[Plan]:
    """Yield all JPEGs."""
    for subsampling, level in product(("444", "422", "420", "411", "440"), (50, 75, 95)):
        for optimize in (False, True):
            yield _ycc(level, subsampling=subsampling, optimize=optimize)
    for level, progressive, restarts in product((60, 90), (False, True), (0, 1)):
        for mode in ("L", "RGB"):
            yield _by_pillow(mode, quality=level, progressive=progressive, restart_marker_rows=restarts)
        yield _by_pillow("RGB", quality=level, progressive=progressive, keep_rgb=True)
        yield _by_pillow("CMYK", quality=level, progressive=progressive)
    for level in (75, 95):
        yield _inks(level, "YCCK")
        yield _inks(level, "CMYK")
        yield _inks(level, "CMYK", adobe=False)
    for name, channels in product(OTHERS, (1, 3)):
        yield _other(name, channels)


def _shown(data: bytes) -> Pixels:
    return rgb(imagecodecs.jpeg8_decode(data).astype(float))


def _ycc(level: int, **options: Any) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        data = bytes(imagecodecs.jpeg8_encode(picture(rng, 3, 8), level, **options))
        return Specimen(f"JPEG of {level}, {options}", data, lambda: _shown(data))

    return plan


def _by_pillow(mode: str, **options: Any) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, {"L": 1, "RGB": 3, "CMYK": 4}[mode], 8)
        buffer = io.BytesIO()
        Image.fromarray(values[..., 0] if mode == "L" else values, mode).save(buffer, "JPEG", **options)
        data = buffer.getvalue()

        def reference() -> Pixels:
            if mode != "CMYK":
                return _shown(data)
            return rgb(of_inks(255.0 - imagecodecs.jpeg8_decode(data, outcolorspace="CMYK")))

        return Specimen(f"JPEG {mode}, {options}", data, reference)

    return plan


def _inks(level: int, space: str, adobe: bool = True) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 4, 8)
        data = bytes(imagecodecs.jpeg8_encode(values, level, colorspace="CMYK", outcolorspace=space))
        if not adobe:
            place = data.index(b"\xff\xee")
            data = data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4]) :]

        def reference() -> Pixels:
            # Without Adobe's marker nobody knows whether the inks are inverted: not to be read.
            inks = 255.0 - imagecodecs.jpeg8_decode(data, outcolorspace="CMYK")
            return rgb(of_inks(inks)) if adobe else np.zeros((1, 1, 3), np.uint8)

        return Specimen(f"JPEG {space} of {level}{'' if adobe else ', no marker'}", data, reference, required=adobe)

    return plan


OTHERS: dict[str, tuple[int, Callable[[Pixels], bytes]]] = {
    "JPEG of 12 bits": (12, lambda v: imagecodecs.jpeg8_encode(v, 100, bitspersample=12)),
    "lossless JPEG": (8, lambda v: imagecodecs.jpeg8_encode(v, lossless=True)),
    "lossless JPEG of 16 bits": (16, lambda v: imagecodecs.jpeg8_encode(v, lossless=True, bitspersample=16)),
    "JPEG-LS": (8, imagecodecs.jpegls_encode),
    "JPEG-LS of 16 bits": (16, imagecodecs.jpegls_encode),
    "JPEG XL": (8, lambda v: imagecodecs.jpegxl_encode(v, lossless=True)),
    "JPEG XR": (8, imagecodecs.jpegxr_encode),
    "AVIF": (8, lambda v: imagecodecs.avif_encode(v, 100)),
    "HTJ2K": (8, lambda v: imagecodecs.htj2k_encode(v)),
}


def _other(name: str, channels: int) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        bits, encode = OTHERS[name]
        values = picture(rng, channels, bits)
        gray_too = "AVIF" not in name
        data = bytes(
            encode(
                values[..., 0] if channels == 1 and gray_too else np.broadcast_to(values, (*values.shape[:2], 3)).copy()
            )
        )
        return Specimen(f"{name} of {channels} channels", data, lambda: rgb(levels(values, bits)), required=False)

    return plan
