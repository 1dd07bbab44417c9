"""TIFFs, with the colors that their stored values mean (TIFF 6.0)."""

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import tifffile

from tests.corpus import Specimen
from tests.corpus.pictures import Pixels, levels, of_inks, on_white, picture, rgb

Plan = Callable[[np.random.Generator], Specimen]
PACKINGS = (None, "deflate", "lzw", "packbits", "zstd", "lzma")
COLORS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "palette": 1, "separated": 4}


@dataclass(frozen=True)
class Kind:
    """What pixels mean: ``extra`` channels are named as tifffile names them."""

    photometric: str
    bits: int
    extra: tuple[str, ...] = ()
    required: bool = True
    scale: int = 257
    """Of the values of a palette: 1 where they are of 8 bits."""

    def __str__(self) -> str:
        narrow = ", map of 8 bits" if self.scale == 1 else ""
        return f"{self.photometric} {self.bits} {'+'.join(self.extra)}{narrow}"

    def draw(self, rng: np.random.Generator) -> Pixels:
        """Return stored values, with planes last."""
        values = picture(rng, COLORS[self.photometric] + len(self.extra), self.bits)
        if self.extra[:1] == ("assocalpha",):
            values[..., :-1] = np.minimum(values[..., :-1], values[..., -1:])
        return values

    def shown(self, values: Pixels, colors: Pixels) -> Pixels:
        """Return what the values look like; ``colors`` is the map of a palette, 8 bits."""
        shades = levels(values.astype(float), self.bits)
        count = COLORS[self.photometric]
        inks, rest = shades[..., :count], shades[..., count:]
        if self.photometric == "palette":
            return np.asarray(colors.T[values[..., 0]])
        if self.photometric == "miniswhite":
            inks = 255 - inks
        if self.photometric == "separated":
            inks = of_inks(inks)
        if self.extra[:1] == ("unassalpha",):
            inks = on_white(inks, rest[..., 0])
        if self.extra[:1] == ("assocalpha",):
            inks = inks + 255 - rest[..., :1]
        return rgb(inks)


KINDS = [
    *(Kind(photometric, bits) for photometric in ("minisblack", "rgb") for bits in (8, 16)),
    *(Kind("rgb", bits, (alpha,)) for bits in (8, 16) for alpha in ("unassalpha", "unspecified")),
    Kind("rgb", 8, ("assocalpha",)),
    Kind("rgb", 16, ("assocalpha",), required=False),
    *(Kind("minisblack", 8, (alpha,)) for alpha in ("unassalpha", "assocalpha", "unspecified")),
    Kind("miniswhite", 8),
    Kind("palette", 8),
    Kind("palette", 8, scale=1),
    Kind("separated", 8),
    *(Kind("minisblack", 16, (alpha,), required=False) for alpha in ("unassalpha", "unspecified")),
    Kind("rgb", 8, ("unspecified", "unspecified"), required=False),
    Kind("rgb", 8, ("unassalpha", "unspecified"), required=False),
    Kind("miniswhite", 16, required=False),
    Kind("separated", 16, required=False),
    Kind("separated", 8, ("unspecified",), required=False),
    Kind("separated", 8, ("unassalpha",), required=False),
]


def tiffs() -> Iterator[Plan]:
    """Yield all TIFFs."""
    for kind, packing, order, planar, tile in product(KINDS, PACKINGS, "<>", ("contig", "separate"), (None, (16, 16))):
        if planar == "contig" or COLORS[kind.photometric] + len(kind.extra) > 1:
            yield _written(kind, packing, order, planar, tile=tile)
    for kind, packing, order, planar in product(KINDS, PACKINGS[1:5:2], "<>", ("contig", "separate")):
        if kind.bits >= 8 and packing != "packbits" and COLORS[kind.photometric] + len(kind.extra) > planar.count("s"):
            yield _written(kind, packing, order, planar, predictor=True)
    for kind, packing, order in product(KINDS[:12], (None, "deflate"), "<>"):
        yield _written(kind, packing, order, "contig", bigtiff=True)
        yield _written(kind, packing, order, "contig", rowsperstrip=5)
    for orientation, kind, packing in product(range(1, 9), KINDS[:4], (None, "lzw")):
        yield _written(kind, packing, "<", "contig", orientation)
    yield from _odd_depths()
    yield from _other_numbers()
    yield from _jpegs()
    yield from _plain()
    yield from _rare_packings()


def _turned(shown: Pixels, orientation: int) -> Pixels:
    """Return stored rows and columns upright (TIFF tag 274)."""
    flips = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    down, across = flips.get(orientation, (1, 1))
    if orientation < 5:
        return shown[::down, ::across]
    return np.swapaxes(shown[::down, ::across], 0, 1)


def _written(kind: Kind, packing: str | None, order: str, planar: str, orientation: int = 1, **options: Any) -> Plan:
    required = kind.required and not (order == ">" and "bigtiff" in options)
    required &= planar == "contig" or kind.photometric == "rgb" or not kind.extra

    def plan(rng: np.random.Generator) -> Specimen:
        values = kind.draw(rng)
        colors = rng.integers(0, 256, (3, 256))
        colors[:, :2] = [[0, 255]] * 3
        more = {"colormap": (colors * kind.scale).astype(np.uint16)} if kind.photometric == "palette" else {}
        if kind.extra:
            more["extrasamples"] = list(kind.extra)
        pixels = np.moveaxis(values, -1, 0) if planar == "separate" else values
        if values.shape[-1] == 1:
            pixels, planar_as = values[..., 0], None
        else:
            planar_as = planar
        data = io.BytesIO()
        tifffile.imwrite(
            data,
            pixels,
            byteorder=order,
            photometric=kind.photometric,
            planarconfig=planar_as,
            compression=packing,
            metadata=None,
            extratags=[(274, 3, 1, orientation, True)] if orientation > 1 else [],
            **more,
            **options,
        )
        words = ", ".join(f"{name} {value}" for name, value in options.items() if value)
        title = f"TIFF {kind}, {packing}, {order}, {planar}, {words}, turn {orientation}"
        return Specimen(title, data.getvalue(), lambda: _turned(kind.shown(values, colors), orientation), required)

    return plan


def _odd_depths() -> Iterator[Plan]:
    for bits, order, channels in product((2, 4, 6, 10, 12, 14), "<>", (1, 3)):

        def plan(rng: np.random.Generator, bits: int = bits, order: str = order, channels: int = channels) -> Specimen:
            values = picture(rng, channels, bits)
            data = io.BytesIO()
            tifffile.imwrite(
                data,
                values[..., 0] if channels == 1 else values,
                byteorder=order,
                photometric="rgb" if channels == 3 else "minisblack",
                bitspersample=bits,
                metadata=None,
            )
            title = f"TIFF of {channels} x {bits} bits, {order}"
            return Specimen(title, data.getvalue(), lambda: rgb(levels(values, bits)), required=False)

        yield plan


def _other_numbers() -> Iterator[Plan]:
    for number, order, channels, packing in product(
        ("f2", "f4", "f8", "i1", "i2", "i4", "u4", "u8"), "<>", (1, 3), (None, "deflate")
    ):

        def plan(
            rng: np.random.Generator,
            number: str = number,
            order: str = order,
            channels: int = channels,
            packing: str | None = packing,
        ) -> Specimen:
            shares = levels(picture(rng, channels, 8), 8) / 255
            dtype = np.dtype(number)
            top = 1.0 if dtype.kind == "f" else float(np.iinfo(dtype).max)
            data = io.BytesIO()
            tifffile.imwrite(
                data,
                ((shares[..., 0] if channels == 1 else shares) * (top * 0.999999)).astype(dtype),
                byteorder=order,
                photometric="rgb" if channels == 3 else "minisblack",
                compression=packing,
                metadata=None,
            )
            title = f"TIFF of {channels} x {number}, {order}, {packing}"
            return Specimen(title, data.getvalue(), lambda: rgb(shares * 255), required=False)

        yield plan


def _jpegs() -> Iterator[Plan]:
    for photometric, quality, tile in product(("minisblack", "rgb", "ycbcr"), (75, 95), (None, (16, 16))):
        for subsampling in ((1, 1), (2, 1), (2, 2)) if photometric == "ycbcr" else (None,):

            def plan(
                rng: np.random.Generator,
                photometric: str = photometric,
                quality: int = quality,
                tile: Any = tile,
                subsampling: Any = subsampling,
            ) -> Specimen:
                values = picture(rng, 1 if photometric == "minisblack" else 3, 8)
                data = io.BytesIO()
                tifffile.imwrite(
                    data,
                    values[..., 0] if values.shape[-1] == 1 else values,
                    photometric=photometric,
                    compression="jpeg",
                    compressionargs={"level": quality},
                    subsampling=subsampling,
                    tile=tile,
                    metadata=None,
                )
                title = f"TIFF with JPEG {photometric}, {quality}, {tile}, {subsampling}"
                return Specimen(
                    title, data.getvalue(), lambda: rgb(tifffile.imread(io.BytesIO(data.getvalue())).astype(float))
                )

            yield plan


def _rare_packings() -> Iterator[Plan]:
    for packing, channels in product(("jpeg2000", "webp", "jpegxl", "png", "jpegxr", "lerc"), (1, 3)):
        if (packing, channels) == ("webp", 1):
            continue

        def plan(rng: np.random.Generator, packing: str = packing, channels: int = channels) -> Specimen:
            values = picture(rng, channels, 8)
            data = io.BytesIO()
            tifffile.imwrite(
                data,
                values[..., 0] if channels == 1 else values,
                photometric="rgb" if channels == 3 else "minisblack",
                compression=packing,
                metadata=None,
            )
            return Specimen(f"TIFF with {packing}", data.getvalue(), lambda: rgb(levels(values, 8)), required=False)

        yield plan


@dataclass
class Plain:
    """A TIFF of one uncompressed strip, with any tags."""

    order: str
    tags: dict[int, int | tuple[int, ...]] = field(default_factory=dict)

    def file(self, pixels: bytes) -> bytes:
        """Return the file's bytes."""
        tags = {259: 1, 273: 8, 279: len(pixels)} | self.tags
        start = 8 + len(pixels) + len(pixels) % 2
        behind, entries = b"", b""
        for tag, value in sorted(tags.items()):
            values = value if isinstance(value, tuple) else (value,)
            kind, letter = (4, "I") if max(values) > 65535 or tag in (273, 279) else (3, "H")
            packed = struct.pack(f"{self.order}{len(values)}{letter}", *values)
            if len(packed) > 4:
                place = start + 2 + 12 * len(tags) + 4 + len(behind)
                behind += packed + b"\0" * (len(packed) % 2)
                packed = struct.pack(f"{self.order}I", place)
            entries += struct.pack(f"{self.order}HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
        head = (b"II" if self.order == "<" else b"MM") + struct.pack(f"{self.order}HI", 42, start)
        directory = struct.pack(f"{self.order}H", len(tags)) + entries + bytes(4)
        return head + pixels + b"\0" * (len(pixels) % 2) + directory + behind


def packed(values: Pixels, bits: int, reverse: bool = False) -> bytes:
    """Return rows of values of less than 8 bits, each row in whole bytes; ``reverse`` for fill order 2."""
    digits = (values[..., None] >> np.arange(bits)[::-1]) & 1
    rows = np.packbits(digits.reshape(len(values), -1).astype(np.uint8), axis=1)
    if reverse:
        rows = np.packbits(np.unpackbits(rows, axis=1, bitorder="little"), axis=1)
    return rows.tobytes()


def _plain() -> Iterator[Plan]:
    for bits, photometric, order, fill in product((1, 2, 4, 8), (0, 1, 3), "<>", (1, 2)):

        def low(
            rng: np.random.Generator,
            bits: int = bits,
            photometric: int = photometric,
            order: str = order,
            fill: int = fill,
        ) -> Specimen:
            values = picture(rng, 1, bits)[..., 0]
            colors = rng.integers(0, 256, (3, 2**bits))
            tags: dict[int, Any] = {256: values.shape[1], 257: values.shape[0], 258: bits, 262: photometric, 266: fill}
            if photometric == 3:
                tags[320] = tuple((colors * 257).ravel().tolist())
            data = Plain(order, tags).file(packed(values, bits, fill == 2))
            shades = levels(values.astype(float), bits)
            shown = {0: 255 - shades, 1: shades, 3: colors.T[values].astype(float)}[photometric]
            title = f"TIFF of {bits} bits, photometric {photometric}, {order}, fill order {fill}"
            return Specimen(title, data, lambda: rgb(shown), required=fill == 1 and bits in (1, 8))

        yield low
    for space, bits, order in product((2, 4, 8, 9, 32844, 32845), (8, 16), "<>"):

        def odd(rng: np.random.Generator, space: int = space, bits: int = bits, order: str = order) -> Specimen:
            values = picture(rng, 4, bits)
            tags: dict[int, Any] = {256: values.shape[1], 257: values.shape[0], 258: (bits,) * 4, 262: space, 277: 4}
            data = Plain(order, tags).file(values.astype(np.dtype(f"{order}u{bits // 8}")).tobytes())
            # Four channels that no tag explains, or a color space without a formula here: not to be read.
            shown = np.full((1, 1, 3), 0, np.uint8)
            return Specimen(f"TIFF of space {space}, 4 x {bits}, {order}", data, lambda: shown, required=False)

        yield odd
