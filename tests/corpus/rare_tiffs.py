"""TIFFs whose tags change what stored values mean, and those that libtiff reads wrongly."""

import io
import zlib
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import tifffile

from tests.corpus import Specimen
from tests.corpus.pictures import Pixels, levels, of_inks, of_ycc, picture, rgb
from tests.corpus.tiffs import Plain, Plan, packed

FULL = (0, 255, 128, 255, 128, 255)
STUDIO = (16, 235, 128, 240, 128, 240)


def rare_tiffs() -> Iterator[Plan]:
    """Yield all of these TIFFs."""
    for across, down, order, packing in product((1, 2, 4), (1, 2, 4), "<>", (1, 8)):
        for _ in range(2):
            yield _subsampled(across, down, order, packing)
    for bits, photometric, packing in product((1, 2, 4, 12), (0, 1), (1, 8)):
        yield _differences(bits, photometric, packing)
    for order, reference in product("<>", (FULL, STUDIO)):
        yield _levels(order, reference)
    for tag, value in ((332, 1), (332, 2), (336, (0, 255)), (336, (255, 0))):
        yield _inks(tag, value)
    for photometric, channels in ((1, 1), (2, 3)):
        for reference in ((0, 255) * channels, (16, 235) * channels):
            yield _narrowed(photometric, reference)
    for _ in range(6):
        yield _deep_jpeg


def _size(pixels: Pixels) -> dict[int, Any]:
    height, width, channels = pixels.shape
    return {256: width, 257: height, 258: (8,) * channels, 277: channels}


def _subsampled(across: int, down: int, order: str, packing: int) -> Plan:
    """YCbCr whose colors are shared by several pixels; the last ones hang over (TIFF 6.0, section 21)."""

    def plan(rng: np.random.Generator) -> Specimen:
        height, width = rng.integers(16, 34, 2).tolist()
        rows, columns = -(-height // down), -(-width // across)
        luma = rng.integers(0, 256, (rows * down, columns * across), np.uint8)
        chroma = rng.integers(90, 170, (rows, columns, 2), np.uint8)
        units = luma.reshape(rows, down, columns, across).swapaxes(1, 2).reshape(rows, columns, -1)
        tags: dict[int, Any] = {256: width, 257: height, 258: (8,) * 3, 262: 6, 277: 3, 530: (across, down)}
        stored = np.concatenate([units, chroma], -1).tobytes()
        data = Plain(order, tags | {259: packing, 532: FULL}).file(zlib.compress(stored) if packing == 8 else stored)
        full = np.dstack([luma, chroma.repeat(down, 0).repeat(across, 1)])[:height, :width]
        title = f"TIFF of YCbCr, {across} x {down} for {height} x {width}, {order}, {packing}"
        return Specimen(title, data, lambda: rgb(of_ycc(full.astype(float))), required=False)

    return plan


def _differences(bits: int, photometric: int, packing: int) -> Plan:
    """Differences of neighbors of less than 8 bits, or in 12."""

    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 1, bits)[..., 0].astype(int)
        differences = np.diff(values, axis=1, prepend=0) % 2**bits
        stored = packed(differences, bits)
        tags = {256: values.shape[1], 257: values.shape[0], 258: bits, 262: photometric, 259: packing, 317: 2}
        data = Plain("<", tags).file(zlib.compress(stored) if packing == 8 else stored)
        shades = levels(values.astype(float), bits)
        title = f"TIFF of differences of {bits} bits, photometric {photometric}, {packing}"
        return Specimen(title, data, lambda: rgb(shades if photometric else 255 - shades), required=False)

    return plan


def _levels(order: str, reference: tuple[int, ...]) -> Plan:
    """YCbCr with reference black and white."""

    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 3, 8)
        low, high = np.reshape(reference, (3, 2)).T
        full = [0, 128, 128] + (values.astype(float) - low) * np.divide([255, 127, 127], high - low)
        data = Plain(order, {**_size(values), 262: 6, 530: (1, 1), 532: reference}).file(values.tobytes())
        return Specimen(f"TIFF of YCbCr from {reference}, {order}", data, lambda: rgb(of_ycc(full)), required=False)

    return plan


def _inks(tag: int, value: int | tuple[int, ...]) -> Plan:
    """Inks that are not those of CMYK, or inverted."""

    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, 4, 8)
        data = Plain("<", {**_size(values), 262: 5, tag: value}).file(values.tobytes())
        inks = values.astype(float)
        # What other inks look like, no formula says: not to be read.
        shown = np.zeros((1, 1, 3), np.uint8) if value == 2 else rgb(of_inks(255 - inks if value == (255, 0) else inks))
        return Specimen(f"TIFF of inks, tag {tag} of {value}", data, lambda: shown, required=False)

    return plan


def _narrowed(photometric: int, reference: tuple[int, ...]) -> Plan:
    """Gray or RGB with reference black and white."""

    def plan(rng: np.random.Generator) -> Specimen:
        values = picture(rng, len(reference) // 2, 8)
        low, high = reference[:2]
        data = Plain("<", {**_size(values), 262: photometric, 532: reference}).file(values.tobytes())
        shades = (values.astype(float) - low) * (255 / (high - low))
        return Specimen(f"TIFF photometric {photometric} from {reference}", data, lambda: rgb(shades), required=False)

    return plan


def _deep_jpeg(rng: np.random.Generator) -> Specimen:
    buffer = io.BytesIO()
    values = picture(rng, 1, 12)[..., 0]
    tifffile.imwrite(buffer, values, photometric="minisblack", compression="jpeg", bitspersample=12, metadata=None)
    data = buffer.getvalue()
    shades = levels(tifffile.imread(io.BytesIO(data)).astype(float), 12)
    return Specimen("TIFF with JPEG of 12 bits", data, lambda: rgb(shades), required=False)
