"""DICOM files of every layout, with the pixels that the formulas of PS3.3 give for their stored values."""

import random
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import imagecodecs
import numpy as np
import pydicom.uid as uids
from pydicom.encaps import encapsulate

from tests.corpus import Specimen
from tests.corpus.dicom_views import GRAYS, HEIGHT, VIEWS, WIDTH, Depth, Pixels, dicom, full, shown, swapped, views

Plan = Callable[[np.random.Generator], Specimen]
NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian)
YBR = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
"""From RGB, PS3.3 C.7.6.3.1.2."""


def dicom_specimens(seed: int) -> Iterator[Specimen]:
    """Yield all DICOM files, in an order and with pixels that the seed decides."""
    plans = [*_native_grays(), *_native_colors(), *_jpegs(), *_jpegs_2000(), *_oddities()]
    random.Random(seed).shuffle(plans)
    for number, plan in enumerate(plans):
        yield plan(np.random.default_rng([seed, number]))


def _gray(
    name: str,
    depth: Depth,
    photometric: str,
    view: str,
    syntax: str,
    encode: Callable[[Pixels, np.random.Generator], bytes],
    vr: str = "OB",
    **more: Any,
) -> Plan:
    def plan(rng: np.random.Generator) -> Specimen:
        values = depth.draw(rng)
        display = views(depth, rng, syntax == uids.ExplicitVRBigEndian)[view]()
        data = dicom(encode(values, rng), syntax, photometric, depth.elements() | display.elements | more, vr)
        title = f"{name}, {photometric}, {depth}, {view}"
        return Specimen(title, data, lambda: shown(display.levels(values.astype(float)), photometric))

    return plan


def _native_grays() -> Iterator[Plan]:
    depths = [(8, 8), (8, 7), (8, 5), (8, 1), (16, 8), (16, 10), (16, 12), (16, 15), (16, 16)]
    for number, (view, (allocated, stored), signed, syntax) in enumerate(product(VIEWS, depths, (False, True), NATIVE)):
        depth = Depth(allocated, stored, signed)
        vr = "OW" if allocated == 16 or syntax == uids.ImplicitVRLittleEndian or number % 3 else "OB"

        def encode(
            values: Pixels, rng: np.random.Generator, depth: Depth = depth, *where: str, at: Any = (syntax, vr)
        ) -> bytes:
            return depth.packed(values, *at, rng.integers(0, 256, values.shape))

        yield _gray(f"{uids.UID(syntax).name} {vr}", depth, GRAYS[number // 3 % 2], view, syntax, encode, vr)


def _to_eight(values: Pixels, bits: int) -> Pixels:
    return np.rint(values / (2**bits - 1) * 255).astype(np.uint8)


def _from_ybr(ybr: Pixels) -> Pixels:
    centered = ybr.astype(float) - [0, 128, 128]
    return np.clip(np.rint(centered @ np.linalg.inv(YBR).T), 0, 255).astype(np.uint8)


def _to_ybr(rgb: Pixels) -> Pixels:
    return np.clip(np.rint(rgb.astype(float) @ YBR.T + [0, 128, 128]), 0, 255).astype(int)


def _native_colors() -> Iterator[Plan]:
    depths = [(8, 8), (8, 7), (8, 5), (16, 8), (16, 10), (16, 12), (16, 16)]

    def native(depth: Depth, photometric: str, planar: int, syntax: str, vr: str, ybr: bool, odd: bool) -> Plan:
        def plan(rng: np.random.Generator) -> Specimen:
            values = _to_ybr(depth.draw(rng, 3)) if ybr else depth.draw(rng, 3)
            if odd:  # an odd number of bytes
                values = values[: HEIGHT - 1, : WIDTH - 1]
            stored = values
            if photometric == "YBR_FULL_422":
                pairs = values.reshape(HEIGHT, WIDTH // 2, 2, 3)
                pairs[..., 1, 1:] = pairs[..., 0, 1:]
                stored = np.stack([pairs[..., 0, 0], pairs[..., 1, 0], pairs[..., 0, 1], pairs[..., 0, 2]], -1)
            elif planar:
                stored = np.moveaxis(values, -1, 0)
            data = depth.packed(stored, syntax, vr, rng.integers(0, 256, stored.shape))
            size = {"PlanarConfiguration": planar, "Rows": values.shape[0], "Columns": values.shape[1]}
            data += bytes(len(data) % 2)
            name = f"{uids.UID(syntax).name} {vr}, {photometric}, {depth}, planar {planar}{', odd' if odd else ''}"
            file = dicom(data, syntax, photometric, depth.elements() | size, vr)
            return Specimen(name, file, lambda: _from_ybr(values) if ybr else _to_eight(values, depth.stored))

        return plan

    for syntax, depth, planar, vr, odd in product(NATIVE, depths, (0, 1), ("OB", "OW"), (False, True)):
        if vr == "OW" or (depth[0] == 8 and syntax != uids.ImplicitVRLittleEndian):
            yield native(Depth(*depth), ("RGB", "rgb")[planar and odd], planar, syntax, vr, False, odd)
    for syntax, vr, planar in product(NATIVE, ("OB", "OW"), (0, 1)):
        if vr == "OW" or syntax != uids.ImplicitVRLittleEndian:
            yield native(Depth(8, 8), "YBR_FULL", planar, syntax, vr, True, False)
            yield native(Depth(8, 8), "YBR_FULL_422", 0, syntax, vr, True, False)


def _smooth(rng: np.random.Generator, *shape: int) -> Pixels:
    """Return an image that a lossy codec keeps recognizable, 0..255."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = [127 + 120 * np.sin(x / rng.uniform(3, 9) + y / rng.uniform(3, 9) + rng.uniform(0, 6)) for _ in range(3)]
    return np.stack(waves, -1)[..., : shape[0] if shape else 1].squeeze().astype(np.uint8)


def _without_marks(frame: bytes) -> bytes:
    """Return a JPEG of three parts without JFIF or Adobe marker, its parts numbered 1 to 3."""
    length = int.from_bytes(frame[4:6], "big")
    data = bytearray(frame[:2] + frame[4 + length :])
    start, scan = (data.index(marker) for marker in (b"\xff\xc0", b"\xff\xda"))
    for part in range(3):
        data[start + 10 + 3 * part] = data[scan + 5 + 2 * part] = part + 1
    return bytes(data)


def _jpegs() -> Iterator[Plan]:
    eight = Depth(8, 8)

    def color(sampling: str, photometric: str, stored: str, marks: bool, syntax: str, quality: int) -> Plan:
        def plan(rng: np.random.Generator) -> Specimen:
            options = {"colorspace": "RGB", "outcolorspace": "RGB"} if stored == "RGB" else {"subsampling": sampling}
            whole = imagecodecs.jpeg8_encode(_smooth(rng, 3), level=quality, **options)
            frame = whole if marks else _without_marks(whole)
            name = (
                f"{uids.UID(syntax).name} of {stored} {sampling}, {'' if marks else 'not '}marked, called {photometric}"
            )
            planar = {"PlanarConfiguration": (None, 0, 1)[int(rng.integers(3))]}  # without meaning here
            file = dicom(encapsulate([frame]), syntax, photometric, eight.elements() | planar)
            return Specimen(name, file, lambda: imagecodecs.jpeg8_decode(whole))

        return plan

    def gray(values: Pixels, rng: np.random.Generator) -> bytes:
        return encapsulate([imagecodecs.jpeg8_encode(values.astype(np.uint8), lossless=False, level=100)])

    syntaxes = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit)
    for syntax, quality, sampling in product(syntaxes, (75, 95), ("444", "422", "420")):
        for photometric, marks in product(("YBR_FULL_422", "YBR_FULL", "RGB"), (True, False)):
            if photometric != "RGB" or marks or sampling != "444":
                yield color(sampling, photometric, "YBR", marks, syntax, quality)
    for syntax, quality, (photometric, marks) in product(syntaxes, (75, 95), (("RGB", True), ("RGB", False))):
        yield color("444", photometric, "RGB", marks, syntax, quality)
    for view, photometric in product(("the full range", "empty elements"), GRAYS):
        yield _gray("JPEG", eight, photometric, view, uids.JPEGBaseline8Bit, gray)


def _lossless(values: Pixels, depth: Depth, **options: Any) -> bytes:
    kind = f"{'i' if depth.signed else 'u'}{1 if depth.stored <= 8 else 2}"
    settings = {"codecformat": "j2k", "reversible": True, "level": 0, "bitspersample": depth.stored} | options
    return encapsulate([imagecodecs.jpeg2k_encode(np.ascontiguousarray(values).astype(kind), **settings)])


def _jpegs_2000() -> Iterator[Plan]:
    depths = [Depth(8, 8), Depth(8, 7), Depth(16, 8), Depth(16, 10), Depth(16, 12), Depth(16, 16)]
    for depth, signed, view in product(depths, (False, True), VIEWS):
        stored = Depth(depth.allocated, depth.stored, signed)
        photometric = GRAYS[len(view) % 2]
        syntax = (uids.JPEG2000Lossless, uids.JPEG2000)[len(view) % 3 == 0]

        def encode(values: Pixels, rng: np.random.Generator, stored: Depth = stored) -> bytes:
            return _lossless(values, stored, resolutions=int(rng.integers(1, 4)))

        yield _gray("JPEG 2000", stored, photometric, view, syntax, encode)

        def mislabeled(values: Pixels, rng: np.random.Generator, stored: Depth = stored) -> bytes:
            """Two's complement in a codestream that says the other sign."""
            other = Depth(stored.allocated, stored.stored, not stored.signed)
            return _lossless((values - other.low) % 2**stored.stored + other.low, other)

        yield _gray("JPEG 2000 of the other sign", stored, photometric, view, syntax, mislabeled)
    for depth, view in product((Depth(16, 10), Depth(16, 12)), VIEWS):
        # A codestream that says 16 bits for values of fewer.
        yield _gray(
            "JPEG 2000 of 16 bits", depth, "MONOCHROME2", view, uids.JPEG2000Lossless,
            lambda values, _: _lossless(values, Depth(16, 16)),
        )  # fmt: skip

    def color(depth: Depth, photometric: str, mct: bool, lossy: bool, jp2: bool) -> Plan:
        def plan(rng: np.random.Generator) -> Specimen:
            values = (_smooth(rng, 3) if lossy else Depth(8, 8).draw(rng, 3)).astype(int)
            values = values * (2**depth.stored - 1) // 255
            if ybr := photometric == "YBR_FULL":
                values = _to_ybr(values)
            options = {"mct": mct, "codecformat": "jp2" if jp2 else "j2k"} | (
                {"reversible": False, "level": 40} if lossy else {}
            )
            pixels = _lossless(values, depth, **options)
            syntax = uids.JPEG2000 if lossy else uids.JPEG2000Lossless
            planar = {"PlanarConfiguration": (None, 0, 1)[int(rng.integers(3))]}  # without meaning here
            file = dicom(pixels, syntax, photometric, depth.elements() | planar)
            name = f"JPEG 2000 {'lossy' if lossy else 'lossless'} {'JP2 ' * jp2}{'MCT ' * mct}called {photometric}, {depth}"

            def reference() -> Pixels:
                stored = imagecodecs.jpeg2k_decode(pixels[pixels.index(b"\xff\x4f\xff\x51") :]) if lossy else values
                return _from_ybr(stored) if ybr else _to_eight(stored, depth.stored)

            return Specimen(name, file, reference)

        return plan

    depths = [Depth(8, 8), Depth(8, 7), Depth(16, 8), Depth(16, 12), Depth(16, 16)]
    for depth, lossy, jp2 in product(depths, (False, True), (False, True)):
        for photometric, mct in (("RGB", False), ("RGB", True), ("YBR_ICT" if lossy else "YBR_RCT", True)):
            yield color(depth, photometric, mct, lossy, jp2)
    for lossy, jp2 in product((False, True), (False, True)):
        yield color(Depth(8, 8), "YBR_FULL", False, lossy, jp2)


def _oddities() -> Iterator[Plan]:
    """Layouts that may be refused, but not read wrongly."""

    def odd(name: str, make: Callable[[np.random.Generator], tuple[bytes, Pixels]]) -> Plan:
        def plan(rng: np.random.Generator) -> Specimen:
            file, expected = make(rng)
            return Specimen(name, file, lambda: expected, required=False)

        return plan

    little, eight = uids.ExplicitVRLittleEndian, Depth(8, 8)

    def deep(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        depth = Depth(32, 32)
        values = depth.draw(rng)
        file = dicom(values.astype("<u4").tobytes(), little, "MONOCHROME2", depth.elements(), "OW")
        return file, shown(full(values, 0, 2**32 - 1), "MONOCHROME2")

    def high_bit(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        depth = Depth(16, 12)
        values = depth.draw(rng)
        raw = (values << 4) | rng.integers(0, 16, values.shape)
        file = dicom(raw.astype("<u2").tobytes(), little, "MONOCHROME2", depth.elements() | {"HighBit": 15}, "OW")
        return file, shown(full(values, 0, 4095), "MONOCHROME2")

    def jpeg_12(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        frame = imagecodecs.jpeg8_encode(_smooth(rng).astype(np.uint16) << 4, level=95, bitspersample=12)
        file = dicom(encapsulate([frame]), uids.JPEGExtended12Bit, "MONOCHROME2", Depth(16, 12).elements())
        return file, shown(full(imagecodecs.jpeg8_decode(frame), 0, 4095), "MONOCHROME2")

    def jpeg_12_called_8(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        frame = imagecodecs.jpeg8_encode(_smooth(rng).astype(np.uint16) << 4, level=95, bitspersample=12)
        file = dicom(encapsulate([frame]), uids.JPEGExtended12Bit, "MONOCHROME2", eight.elements())
        return file, shown(full(imagecodecs.jpeg8_decode(frame), 0, 4095), "MONOCHROME2")

    def jpeg_ls(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        values = eight.draw(rng, 3).astype(np.uint8)
        frame = imagecodecs.jpegls_encode(values)
        return dicom(encapsulate([frame]), uids.JPEGLSLossless, "RGB", eight.elements()), values

    def deep_ybr(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        values = _to_ybr(eight.draw(rng, 3))
        raw = (values * 257).astype("<u2").tobytes()
        return dicom(raw, little, "YBR_FULL", Depth(16, 16).elements(), "OW"), _from_ybr(values)

    def whole_422(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        """Called YBR_FULL_422, with the colors of every pixel."""
        values = _to_ybr(eight.draw(rng, 3))
        return dicom(values.astype(np.uint8).tobytes(), little, "YBR_FULL_422", eight.elements()), _from_ybr(values)

    def hsv(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        return dicom(bytes(HEIGHT * WIDTH * 3), little, "HSV", eight.elements()), np.zeros((HEIGHT, WIDTH, 3), np.uint8)

    def bits_in_big_endian(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        values = Depth(1, 1).draw(rng)
        data = swapped(Depth(1, 1).packed(values, "", ""))
        file = dicom(data, uids.ExplicitVRBigEndian, "MONOCHROME2", Depth(1, 1).elements(), "OW")
        return file, shown(values, "MONOCHROME2")

    def segmented(rng: np.random.Generator) -> tuple[bytes, Pixels]:
        indices = eight.draw(rng)
        elements = eight.elements()
        for color in ("Red", "Green", "Blue"):
            elements[f"{color}PaletteColorLookupTableDescriptor"] = ("US", [256, 0, 16])
            ramp = np.array([0, 1, 0, 1, 255, 65280], "<u2")  # one entry, then a line of 255 to the end
            elements[f"Segmented{color}PaletteColorLookupTableData"] = ("OW", ramp.tobytes())
        return dicom(eight.packed(indices, little, "OB"), little, "PALETTE COLOR", elements), np.repeat(
            indices[..., None], 3, -1
        ).astype(np.uint8)

    for make in (
        deep,
        high_bit,
        jpeg_12,
        jpeg_12_called_8,
        jpeg_ls,
        deep_ybr,
        whole_422,
        hsv,
        bits_in_big_endian,
        segmented,
    ):
        for number in range(3):
            yield odd(f"{make.__name__} {number}", make)
