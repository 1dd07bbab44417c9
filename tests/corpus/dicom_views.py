"""DICOM files of given pixels, and ways to display them with the values that the formulas of PS3.3 give."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pydicom.uid as uids
from pydicom.dataset import Dataset, FileMetaDataset

Pixels = np.ndarray[Any, Any]
HEIGHT, WIDTH = 16, 24
GRAYS = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class Depth:
    """How a value is stored."""

    allocated: int
    stored: int
    signed: bool = False

    @property
    def low(self) -> int:
        return -(2 ** (self.stored - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        return self.low + 2**self.stored - 1

    def __str__(self) -> str:
        return f"{'signed' if self.signed else 'unsigned'} {self.stored} of {self.allocated} bits"

    def draw(self, rng: np.random.Generator, *shape: int) -> Pixels:
        """Return values from the lowest to the highest; both are among them."""
        values = rng.integers(self.low, self.high, (HEIGHT, WIDTH, *shape), endpoint=True)
        values[0, 0], values[0, 1] = self.low, self.high
        return values

    def packed(self, values: Pixels, syntax: str, vr: str, garbage: Pixels | int = 0) -> bytes:
        """Return values as they are stored, with garbage above the stored bits."""
        if self.allocated == 1:
            return np.packbits(values.ravel().astype(np.uint8), bitorder="little").tobytes()
        raw = (values & (2**self.stored - 1)) | (garbage << self.stored)
        raw &= 2**self.allocated - 1
        big = syntax == uids.ExplicitVRBigEndian
        data = raw.astype(f"{'>' if big else '<'}u{self.allocated // 8}").tobytes()
        return swapped(data) if big and self.allocated == 8 and vr == "OW" else data

    def elements(self) -> dict[str, object]:
        return {
            "BitsAllocated": self.allocated,
            "BitsStored": self.stored,
            "HighBit": self.stored - 1,
            "PixelRepresentation": int(self.signed),
        }


def swapped(data: bytes) -> bytes:
    """Return bytes as 16-bit words in the other order."""
    return np.frombuffer(data + bytes(len(data) % 2), "<u2").astype(">u2").tobytes()


def dicom(pixels: bytes, syntax: str, photometric: str, elements: dict[str, Any], vr: str = "OB") -> bytes:
    """Return a file; an element may be (VR, value)."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uids.UID(syntax)
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.7", "1.2.3"
    data.Rows, data.Columns, data.PhotometricInterpretation = HEIGHT, WIDTH, photometric.upper()
    data.SamplesPerPixel = 1 if photometric in (*GRAYS, "PALETTE COLOR") else 3
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    for keyword, value in elements.items():
        if isinstance(value, tuple):
            data.add_new(keyword, *value)
        else:
            setattr(data, keyword, value)
    data.PixelData = pixels
    data["PixelData"].VR = vr
    buffer = io.BytesIO()
    little, implicit = syntax != uids.ExplicitVRBigEndian, syntax == uids.ImplicitVRLittleEndian
    data.save_as(buffer, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    return buffer.getvalue().replace(photometric.upper().encode(), photometric.encode(), 1)  # pydicom warns of "rgb"


def shown(levels: Pixels, photometric: str) -> Pixels:
    """Return levels 0..1 as gray pixels."""
    gray = np.rint(np.clip(1 - levels if photometric == "MONOCHROME1" else levels, 0, 1) * 255)
    return np.repeat(gray[..., None], 3, -1).astype(np.uint8)


@dataclass(frozen=True)
class View:
    """Elements that say how values are displayed, and the display they mean: 0 for black to 1 for white."""

    elements: dict[str, Any]
    levels: Callable[[Pixels], Pixels]


def _window(values: Pixels, center: float, width: float, function: str = "LINEAR") -> Pixels:
    """PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    inside = (values - center) / width + 0.5
    return np.where(values <= center - width / 2, 0, np.where(values > center + width / 2, 1, inside))


def _table(
    rng: np.random.Generator, entries: int, first: int, bits: int, words: bool, big: bool, narrow: bool = False
) -> tuple[Dataset, Callable[[Pixels], Pixels]]:
    """Return an item with a lookup table of random entries, and what it does (PS3.3 C.11.1.1, C.11.2.1.1)."""
    table = rng.integers(0, 2**bits, entries)
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [entries, first, bits])
    if narrow:
        data = table.astype(np.uint8).tobytes()
        item.add_new("LUTData", "OW", swapped(data) if big else data + bytes(len(data) % 2))
    elif words:
        item.add_new("LUTData", "OW", table.astype(">u2" if big else "<u2").tobytes())
    else:
        item.add_new("LUTData", "US", table.tolist())

    def look_up(values: Pixels) -> Pixels:
        return table[np.clip(values.astype(int) - first, 0, entries - 1)]

    return item, look_up


def full(values: Pixels, *ends: float) -> Pixels:
    return (values - min(ends)) / (max(ends) - min(ends))


def views(depth: Depth, rng: np.random.Generator, big: bool) -> dict[str, Callable[[], View]]:
    """Return ways to display values of a depth, by name."""
    low, high, span = depth.low, depth.high, depth.high - depth.low
    center, width = low + span * 0.4, max(span * 0.5, 1.5)
    window = {"WindowCenter": f"{center:.6g}", "WindowWidth": f"{width:.6g}"}
    c, w = float(window["WindowCenter"]), float(window["WindowWidth"])

    def windowed(function: str | None, **more: Any) -> View:
        elements = window | ({"VOILUTFunction": function} if function else {}) | more
        return View(elements, lambda v: _window(v, c, w, (function or "LINEAR").upper()))

    def rescaled(slope: float, intercept: float, windowed: bool) -> View:
        elements = {"RescaleSlope": slope, "RescaleIntercept": intercept}
        if not windowed:
            return View(
                elements, lambda v: full(v * slope + intercept, low * slope + intercept, high * slope + intercept)
            )
        middle, wide = round(c * slope + intercept, 3), round(abs(w * slope) + 1, 3)
        more = {"WindowCenter": f"{middle}", "WindowWidth": f"{wide}"}
        return View(elements | more, lambda v: _window(v * slope + intercept, middle, wide))

    def voi(bits: int, words: bool, narrow: bool = False, **more: Any) -> View:
        entries = min(span + 1, 1000)
        item, look_up = _table(rng, entries, low + (span + 1 - entries) // 2, bits, words, big, narrow)
        return View({"VOILUTSequence": [item], **more}, lambda v: look_up(v) / (2**bits - 1))

    def modality(bits: int, windowed: bool) -> View:
        entries = min(span + 1, 300)
        item, look_up = _table(rng, entries, low, bits, True, big)
        item.ModalityLUTType = "US"
        if not windowed:
            return View({"ModalityLUTSequence": [item]}, lambda v: look_up(v) / (2**bits - 1))
        more = {"WindowCenter": "90", "WindowWidth": "120"}
        return View({"ModalityLUTSequence": [item], **more}, lambda v: _window(look_up(v), 90, 120))

    def both() -> View:
        entries, first = min(2 * span + 1, 900), max(2 * low + 7, -3000)
        item, look_up = _table(rng, entries, first, 16, True, big)
        elements = {"RescaleSlope": 2, "RescaleIntercept": 7, "VOILUTSequence": [item]}
        return View(elements, lambda v: look_up(2 * v + 7) / 65535)

    empty = dict.fromkeys(("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "VOILUTFunction"))
    return {
        "the full range": lambda: View({}, lambda v: full(v, low, high)),
        "empty elements": lambda: View(empty, lambda v: full(v, low, high)),
        "a window": lambda: windowed(None),
        "a window called linear": lambda: windowed("LINEAR"),
        "an exact window": lambda: windowed("LINEAR_EXACT"),
        "a sigmoid": lambda: windowed("SIGMOID"),
        "an empty function": lambda: windowed(None, VOILUTFunction=""),
        "two windows": lambda: windowed(None, WindowCenter=[window["WindowCenter"], "3"], WindowWidth=[window["WindowWidth"], "5"]),
        "a rescale": lambda: rescaled(1.5, -100, False),
        "a falling rescale": lambda: rescaled(-2, 30, False),
        "a rescale and a window": lambda: rescaled(0.25, -1024, True),
        "a falling rescale and a window": lambda: rescaled(-1, 500, True),
        "a VOI LUT of 8 bits": lambda: voi(8, False),
        "a VOI LUT of 8 bits in words": lambda: voi(8, True),
        "a VOI LUT of 8 bits in bytes": lambda: voi(8, True, narrow=True),
        "a VOI LUT of 12 bits": lambda: voi(12, True),
        "a VOI LUT of 16 bits and a window": lambda: voi(16, False, **window),
        "an empty VOI LUT and a window": lambda: windowed(None, VOILUTSequence=[]),
        "a modality LUT of 8 bits": lambda: modality(8, False),
        "a modality LUT of 12 bits": lambda: modality(12, False),
        "a modality LUT and a window": lambda: modality(8, True),
        "a rescale and a VOI LUT": both,
    }  # fmt: skip


VIEWS = tuple(views(Depth(8, 8), np.random.default_rng(0), big=False))
