"""Pixels of DICOM files: one frame, as it is displayed."""

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom.uid as uids
from PIL import Image, JpegImagePlugin
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_windowing
from pydicom.pixels.utils import as_pixel_options, get_expected_length

from derm_ray.data.codestream import START, read_codestream
from derm_ray.data.image_errors import require_size, unsupported
from derm_ray.errors import ImageError, ImageErrorCode

_GRAYS = ("MONOCHROME1", "MONOCHROME2")
_YBR = ("YBR_FULL", "YBR_FULL_422")
_TRANSFORMED = ("YBR_ICT", "YBR_RCT")  # by JPEG 2000, which undoes it
_SAMPLES = dict.fromkeys(_GRAYS, 1) | dict.fromkeys(("RGB", *_YBR, *_TRANSFORMED), 3)
_WINDOW = ("WindowCenter", "WindowWidth", "VOILUTFunction")
_REQUIRED = (
    *("PhotometricInterpretation", "SamplesPerPixel", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "PixelRepresentation"),
)
_ELEMENTS = (
    *(*_REQUIRED, "PlanarConfiguration", "NumberOfFrames", "HighBit", "RescaleSlope", "RescaleIntercept"),
    *("ModalityLUTSequence", "VOILUTSequence", *_WINDOW, "ICCProfile"),
)


def first_frame(header: Dataset, data: bytes, offset: int) -> Image.Image:
    """Return the first frame, mode L or RGB; its ``info`` holds the ICC profile, if any.

    Args:
        header: all elements before the pixels, and the transfer syntax.
        data: the file.
        offset: position of its pixel element.
    """
    image = _elements(header)
    syntax: uids.UID = header.file_meta.TransferSyntaxUID
    tag = struct.unpack(f"{'<' if syntax.is_little_endian else '>'}HH", data[offset : offset + 4].ljust(4))
    if tag in ((0x7FE0, 0x0008), (0x7FE0, 0x0009)):
        raise _unsupported(image, "floating-point pixel data")
    if tag != (0x7FE0, 0x0010):
        raise ImageError(ImageErrorCode.CORRUPT, "the DICOM file has no pixel data at the expected position")
    if image.get("SamplesPerPixel") == 3:
        image.setdefault("PixelRepresentation", 0)  # colors have no sign
    if missing := [keyword for keyword in _REQUIRED if keyword not in image]:
        raise ImageError(ImageErrorCode.CORRUPT, f"the DICOM header has no value for {', '.join(missing)}")
    require_size(image.Columns, image.Rows)
    photometric, allocated, stored = image.PhotometricInterpretation, image.BitsAllocated, image.BitsStored
    if _SAMPLES.get(photometric) != image.SamplesPerPixel:
        raise _unsupported(image, f"color space {photometric} of {image.SamplesPerPixel} samples per pixel")
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise _unsupported(image, "a bit depth other than 8 or 16")
    if image.PixelRepresentation and image.SamplesPerPixel == 3:
        raise _unsupported(image, "signed colors")
    if not syntax.is_encapsulated:
        shown = _displayed(_native(data, offset, image, syntax), image)
    else:
        frame = get_frame(data[offset + 12 :], 0, number_of_frames=max(int(image.get("NumberOfFrames", 1)), 1))
        if frame.startswith(b"\xff\xd8"):
            picture = _jpeg(frame, image)
            shown = picture if picture.mode == "RGB" else _displayed(np.asarray(picture), image)
        else:
            shown = _displayed(_jpeg_2000(frame, image), image)
    if "ICCProfile" in image:
        shown.info["icc_profile"] = image.ICCProfile
    return shown


def _elements(header: Dataset) -> Dataset:
    """Return the elements that describe the pixels: those with a value, tables in little endian, names in capitals."""
    image = Dataset()
    for keyword in _ELEMENTS:
        if keyword in header and not header[keyword].is_empty:
            image.add(header[keyword])
    if not header.file_meta.TransferSyntaxUID.is_little_endian:
        for element in image.iterall():
            if element.VR == "OW":
                element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
    if "PhotometricInterpretation" in image:
        image.PhotometricInterpretation = str(image.PhotometricInterpretation).strip().upper()
    return image


def _unsupported(image: Dataset, what: str) -> ImageError:
    sign = "signed" if image.get("PixelRepresentation") else "unsigned"
    bits = f"{image.get('BitsStored', '?')} of {image.get('BitsAllocated', '?')} bits"
    pixels = f"{image.get('PhotometricInterpretation', '?')}, {bits}, {sign}"
    return unsupported(f"DICOM with {what} (pixels: {pixels})")


def _check_size(size: tuple[int, int], image: Dataset) -> None:
    if size != (image.Columns, image.Rows):
        said = f"{image.Columns} x {image.Rows}"
        raise ImageError(ImageErrorCode.CORRUPT, f"the frame is {size[0]} x {size[1]}, its DICOM header says {said}")


def _range(image: Dataset) -> tuple[int, int]:
    """Return the lowest and highest value that the stored bits can express."""
    half = 2 ** (image.BitsStored - 1)
    return (-half, half - 1) if image.PixelRepresentation else (0, 2 * half - 1)


def _native(data: bytes, offset: int, image: Dataset, syntax: uids.UID) -> npt.NDArray[Any]:
    vr = "OW" if syntax.is_implicit_VR else data[offset + 4 : offset + 6].decode("ascii")
    start = offset + (8 if syntax.is_implicit_VR else 12)
    length = int.from_bytes(data[start - 4 : start], "little" if syntax.is_little_endian else "big")
    if image.PhotometricInterpretation in _TRANSFORMED:
        raise _unsupported(image, "uncompressed pixels in a color space of JPEG 2000")
    if image.BitsStored < image.BitsAllocated and image.get("HighBit", image.BitsStored - 1) != image.BitsStored - 1:
        raise _unsupported(image, f"high bit {image.HighBit}")
    frames, image.NumberOfFrames = max(int(image.get("NumberOfFrames", 1)), 1), 1
    expected = int(get_expected_length(image, unit="bytes"))
    if image.PhotometricInterpretation == "YBR_FULL_422" and (
        image.get("PlanarConfiguration") or image.Columns % 2 or length >= frames * expected * 3 // 2
    ):
        raise _unsupported(image, "YBR_FULL_422 that is planar, of odd width, or not subsampled")
    found = min(length, len(data) - start)
    if found < expected or length == 0xFFFFFFFF:
        raise ImageError(ImageErrorCode.CORRUPT, f"DICOM pixels of {found} bytes, not {expected}")
    pixels = memoryview(data)[start : start + expected + expected % 2]
    return _decoded(pixels, syntax, image, pixel_vr=vr, view_only=True)


def _jpeg(frame: bytes, image: Dataset) -> Image.Image:
    """Decode a JPEG frame. Its own markers decide whether it is RGB; without markers, the DICOM header does."""
    if image.PhotometricInterpretation in _TRANSFORMED:
        raise _unsupported(image, "JPEG frames in this color space")
    if image.BitsStored != 8 or image.PixelRepresentation:
        raise _unsupported(image, "JPEG frames that do not have 8 unsigned bits")
    try:
        picture = JpegImagePlugin.JpegImageFile(io.BytesIO(frame))
    except SyntaxError as error:
        if "cannot handle" in str(error):
            raise _unsupported(image, f"JPEG frames that do not have 8 bits and 1 or 3 components ({error})") from error
        raise
    _check_size(picture.size, image)
    if len(picture.getbands()) != image.SamplesPerPixel:
        raise _unsupported(image, f"JPEG frames of {len(picture.getbands())} components")
    ids, factors = bytes(part[0] for part in picture.layer), {part[1:3] for part in picture.layer}
    marked = picture.info.keys() & {"adobe", "jfif", "exif"} or ids == b"RGB" or len(factors) > 1
    if ids.upper() == b"RGB" and (
        "jfif" in picture.info or (ids == b"rgb" and image.PhotometricInterpretation != "RGB")
    ):
        raise _unsupported(image, "JPEG frames whose markers for RGB and YBR contradict each other")
    if image.PhotometricInterpretation == "RGB" and not marked:
        picture.draft("YCbCr", None)  # keeps libjpeg from converting what is RGB already
        return Image.merge("RGB", picture.split())
    picture.load()
    return picture


def _jpeg_2000(frame: bytes, image: Dataset) -> npt.NDArray[Any]:
    """Decode a JPEG 2000 frame, once its own header agrees with the DICOM header."""
    start = frame.find(START)
    if start < 0 or (start and frame[4:8] != b"jP  "):
        raise ImageError(ImageErrorCode.CORRUPT, "the frame of the DICOM file is neither JPEG nor JPEG 2000")
    if b"pclr" in frame[:start] or b"cdef" in frame[:start]:
        raise _unsupported(image, "JPEG 2000 frames with a palette or channel definitions")
    frame = frame[start:]
    header = read_codestream(frame)
    _check_size(header.size, image)
    if header.components != image.SamplesPerPixel:
        raise _unsupported(image, f"JPEG 2000 frames of {header.components} components")
    same = header.bits == image.BitsStored and image.PhotometricInterpretation in _GRAYS
    if header.bits > image.BitsAllocated or (header.signed != image.PixelRepresentation and not same):
        raise _unsupported(image, f"JPEG 2000 frames of {header.bits} {'signed' if header.signed else 'unsigned'} bits")
    if header.transformed and image.PhotometricInterpretation in _YBR:
        raise _unsupported(image, "JPEG 2000 frames whose own color transform yields RGB")
    values = _decoded(encapsulate([frame]), uids.JPEG2000, image, decoding_plugin="pylibjpeg", planar_configuration=0)
    return values if header.bits <= image.BitsStored else np.clip(values, *_range(image))


def _decoded(pixels: bytes | memoryview, syntax: uids.UID, image: Dataset, **options: Any) -> npt.NDArray[Any]:
    """Decode one frame with pydicom: stored values, or RGB."""
    if image.PhotometricInterpretation in _YBR and (image.BitsAllocated, image.BitsStored) != (8, 8):
        raise _unsupported(image, "YBR pixels that do not have 8 bits")
    options = as_pixel_options(image, pixel_keyword="PixelData", number_of_frames=1) | options
    values: npt.NDArray[Any] = get_decoder(syntax).as_array(pixels, index=0, **options)[0]
    return values


def _displayed(values: npt.NDArray[Any], image: Dataset) -> Image.Image:
    """Return stored values, one or three a pixel, as an image."""
    stored = image.BitsStored
    if image.SamplesPerPixel == 1:
        low, high = _range(image)
        with np.errstate(all="ignore"):
            levels = _grays(np.arange(low, high + 1), image)
        # Row by row, since an index takes eight bytes a pixel.
        values = np.stack([levels[row.astype(np.intp) - low] for row in values])
    elif stored < 8:
        values = np.rint(values * (255 / (2**stored - 1))).astype(np.uint8)
    elif values.dtype != np.uint8:
        values = (values >> (stored - 8)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))


def _grays(values: npt.NDArray[Any], image: Dataset) -> npt.NDArray[np.uint8]:
    """Return what stored values are displayed as (PS3.3 C.11.1, C.11.2)."""
    if (table := _table(image, "ModalityLUTSequence")) is not None:
        values, highest = _look_up(values, *table, image)
        span = (0.0, highest)
    else:
        values = values * float(image.get("RescaleSlope", 1)) + float(image.get("RescaleIntercept", 0))
        span = (float(values.min()), float(values.max()))
    if (table := _table(image, "VOILUTSequence")) is not None:
        values, highest = _look_up(np.rint(values), *table, image)
        span = (0.0, highest)
    elif "WindowCenter" in image and "WindowWidth" in image:
        # pydicom scales to the range of the pixels that the data set describes.
        window, span = Dataset(), (0.0, 255.0)
        window.BitsStored, window.PixelRepresentation, window.PhotometricInterpretation = 8, 0, "MONOCHROME2"
        for keyword in _WINDOW:
            if keyword in image:
                window.add(image[keyword])
        try:
            values = apply_windowing(values, window)
        except ValueError as error:
            raise _unsupported(image, f"a window that cannot be applied: {error}") from error
    levels: npt.NDArray[np.float64] = np.rint((values - span[0]) * np.divide(255, span[1] - span[0]))
    if not np.isfinite(levels).all():
        raise _unsupported(image, "a rescale slope of 0, or a number that is not finite")
    if image.PhotometricInterpretation == "MONOCHROME1":
        levels = 255 - levels
    return levels.astype(np.uint8)


def _table(image: Dataset, keyword: str) -> tuple[Any, Any] | None:
    """Return descriptor and data of the first lookup table of a sequence, if there is one."""
    item = image[keyword][0] if keyword in image else Dataset()
    if any(part not in item or item[part].is_empty for part in ("LUTDescriptor", "LUTData")):
        return None
    return item.LUTDescriptor, item.LUTData


def _look_up(
    values: npt.NDArray[Any], descriptor: Any, data: Any, image: Dataset
) -> tuple[npt.NDArray[np.float64], float]:
    """Return values passed through a lookup table, and the highest value that its bits can express.

    pydicom's own functions index with as many bits as an entry has, so that a table of 300 entries of 8 bits wraps
    around.
    """
    entries, first, bits = (int(number) for number in descriptor)
    entries = entries or 2**16
    if isinstance(data, bytes):
        data = np.frombuffer(data, "<u2" if len(data) >= 2 * entries else np.uint8)
    table = np.atleast_1d(np.asarray(data))[:entries]
    narrow = table.dtype == np.uint8 and bits > 8
    if len(table) < entries or narrow or not 8 <= bits <= 16 or table.min() < 0 or table.max() >= 2**bits:
        raise _unsupported(image, f"a lookup table of {entries} entries of {bits} bits in {len(table)} values")
    if first > values.max() or first + entries <= values.min():
        raise _unsupported(image, f"a lookup table for values from {first} on, which no pixel has")
    return table[np.clip(values - first, 0, entries - 1).astype(np.intp)].astype(np.float64), 2.0**bits - 1
