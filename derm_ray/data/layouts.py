"""Checks of image headers: layouts that would be decoded incorrectly are refused by name.

Pillow reads some layouts without an error and wrongly, and calls others damaged. ``tests/corpus`` compares what passes
here with independent decoders.
"""

import io
import re
import struct
from typing import Any

from PIL import TiffImagePlugin

from derm_ray.errors import ImageError, ImageErrorCode

_OTHERS = (
    (rb"....ftyp(hei[cxsm]|hev[cx]|mif1|msf1)", "HEIC, as iPhones save photos,"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0", "the raw format of a camera"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"II\xbc[\x00\x01]", "JPEG XR"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.{,500}?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", "SVG"),
    (rb"%PDF-", "PDF"),
    (rb"%!PS", "PostScript"),
    (rb"8BPS", "Photoshop (PSD)"),
    (rb"P[1-7]\s", "PNM (PBM, PGM, PPM, PAM)"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"#\?(RADIANCE|RGBE)", "Radiance HDR"),
    (rb"\0\0[\x01\x02]\0[\x01-\x20]\0", "ICO"),
    (rb"gimp xcf", "GIMP (XCF)"),
    (rb"\x8aMNG|\x8bJNG", "MNG"),
    (rb"DDS ", "DDS"),
    (rb"qoif", "QOI"),
    (rb"BPG\xfb", "BPG"),
    (rb"AT&TFORM", "DjVu"),
)
"""Signatures of unsupported formats."""
_JPEG_PROCESSES = (
    dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG")
    | dict.fromkeys((0xC9, 0xCA), "arithmetic JPEG")
    | dict.fromkeys((0xC3, 0xCB), "lossless JPEG")
    | {0xF7: "JPEG-LS"}
)
_TIFF_PACKINGS = dict.fromkeys((1, 5, 7, 8, 32773, 32946, 34925, 50000)) | {
    number: name
    for name, numbers in (
        ("CCITT fax", (2, 3, 4)),
        ("old-style JPEG", (6,)),
        ("JPEG 2000", (33003, 33004, 33005, 34712)),
        ("JPEG XR", (22610, 34934)),
        ("JPEG XL", (50002, 52546)),
        ("LogLuv", (34676, 34677)),
        ("WebP", (50001,)),
        ("LERC", (34887,)),
        ("PNG", (34933,)),
    )
    for number in numbers
}
"""TIFF compressions; ``None`` for supported ones."""
_TIFF_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_TIFF_BITS = {0: (1, 2, 4, 8, 16), 1: (1, 2, 4, 8, 12, 16), 2: (8, 16), 3: (1, 2, 4, 8), 5: (8, 16), 6: (8,)}
_TIFF_SPACES = {4: "a mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab", 32803: "a sensor", 32844: "LogL", 32845: "LogLuv"}
_LUMA = [0.3, 0.59, 0.11]
MAX_TILE_PIXELS = 2048 * 2048
"""Limit for a TIFF tile, or the image's size if larger; libtiff allocates whole tiles."""
MAX_SEGMENTS = 10_000
"""Before the pixels of a JPEG or PNG."""
GAMMA_TOLERANCE = 0.02
"""A PNG's gamma that is off sRGB's by no more than this share moves no channel by more than two levels of 255."""
_TO_SRGB = "Convert the image to sRGB"
_SRGB_CICP = b"\x01\x0d\x00\x01"
_SRGB_PRIMARIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_BMP_MASKS = {
    16: {(0xF800, 0x7E0, 0x1F, 0), (0x7C00, 0x3E0, 0x1F, 0)},
    32: {
        (0xFF0000, 0xFF00, 0xFF, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0),
        (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    },
}


def other_format(data: bytes) -> str | None:
    """Return the name of an unsupported image format, if the bytes have its signature."""
    return next((name for start, name in _OTHERS if re.match(start, data[:1024], re.DOTALL)), None)


def check_layout(data: bytes) -> None:
    """Refuse an image with an unsupported layout.

    Raises:
        ImageError: with the code ``unsupported``, with the layout and the fix; ``corrupt`` for a damaged header.
    """
    checks = {b"\xff\xd8\xff": _jpeg, b"\x89PNG": _png, b"BM": _bmp, b"RIFF": _webp}
    checks |= dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"), _tiff)
    for magic, check in checks.items():
        if data.startswith(magic):
            try:
                check(data)
            except ImageError:
                raise
            except Exception as error:  # struct.error and whatever else Pillow raises on damaged headers
                raise ImageError(ImageErrorCode.CORRUPT, "its header is damaged or truncated") from error


def unsupported(what: str, fix: str = "Convert the image to PNG or 8-bit TIFF") -> ImageError:
    """Return the error for an unsupported layout."""
    return ImageError(ImageErrorCode.UNSUPPORTED, f"{what} is not supported. {fix}")


def _jpeg(data: bytes) -> None:
    offset, adobe = 2, False
    for _ in range(MAX_SEGMENTS):
        fill, marker, length = struct.unpack_from(">BBH", data, offset)
        if fill != 0xFF:
            return  # libjpeg looks for the next one
        if marker == 0xFF:
            offset += 1
            continue
        if marker in _JPEG_PROCESSES:
            raise unsupported(_JPEG_PROCESSES[marker])
        if marker in (0xC0, 0xC1, 0xC2):
            break
        adobe |= marker == 0xEE and data[offset + 4 : offset + 9] == b"Adobe"
        offset += 2 + length
    bits, parts = data[offset + 4], data[offset + 9]
    if bits != 8:
        raise unsupported(f"JPEG of {bits} bits")
    if parts not in (1, 3) and not (parts == 4 and adobe):
        raise unsupported(f"JPEG of {parts} components of unknown meaning")


def _png(data: bytes) -> None:
    offset, found = 8, {}
    for _ in range(MAX_SEGMENTS):
        length, kind = struct.unpack_from(">I4s", data, offset)
        if kind == b"IDAT":
            break
        found[kind] = data[offset + 8 : offset + 8 + min(length, 64)]
        offset += 12 + length
    if b"CgBI" in found:
        raise unsupported("PNG in Apple's own variant (CgBI)")
    bits, color = found[b"IHDR"][8:10]
    if not found.keys() & {b"iCCP", b"sRGB"}:
        primaries = struct.unpack(">8I", found.get(b"cHRM", struct.pack(">8I", *_SRGB_PRIMARIES)))
        (gamma,) = struct.unpack(">I", found.get(b"gAMA", struct.pack(">I", 45455)))
        if max(abs(value - srgb) for value, srgb in zip(primaries, _SRGB_PRIMARIES, strict=True)) > 1000:
            raise unsupported("PNG of primary colors other than sRGB's (cHRM)", _TO_SRGB)
        if found.get(b"cICP", _SRGB_CICP) != _SRGB_CICP:
            raise unsupported("PNG of a color space other than sRGB (cICP)", _TO_SRGB)
        if abs(gamma / 45455 - 1) > GAMMA_TOLERANCE and (bits == 16 or b"cICP" in found):
            raise unsupported(f"PNG of {bits} bits with another gamma than sRGB's (gAMA)", _TO_SRGB)
    if b"tRNS" in found and (bits, color) in ((2, 0), (4, 0), (16, 2)):
        # Pillow compares scaled pixels with a color that is not scaled.
        raise unsupported(f"PNG of {bits} bits with one transparent color")


def _webp(data: bytes) -> None:
    if data[8:12] != b"WEBP":
        return
    offset, canvas, alpha = 12, b"", 0
    for _ in range(MAX_SEGMENTS):
        kind, length = struct.unpack_from("<4sI", data, offset)
        content = data[offset + 8 : offset + 20]
        if kind == b"VP8X":
            alpha, canvas = content[0] & 0x10, content[4:10]
        elif kind == b"ANMF" and content[6:12] != canvas and not alpha:  # libwebp takes what is around it for black
            raise unsupported("WebP whose first picture does not fill its canvas")
        elif kind in (b"ANMF", b"VP8 ", b"VP8L"):
            return
        offset += 8 + length + length % 2


def _bmp(data: bytes) -> None:
    size, bits, packing, used = struct.unpack_from("<I10xHI12xI", data, 14)
    if size == 12:
        return
    if size not in (40, 52, 56, 64, 108, 124):
        raise unsupported(f"BMP with a header of {size} bytes")
    if size == 64 and packing:
        raise unsupported("compressed BMP of OS/2")
    if packing not in (0, 1, 2, 3):
        raise unsupported(f"BMP with compression {packing}")
    if packing == 3:
        masks = struct.unpack_from("<4I", data, 54)
        masks = masks if size >= 56 else (*masks[:3], 0)
        if masks not in _BMP_MASKS.get(bits, set()):
            raise unsupported(f"BMP of {bits} bits with the masks {', '.join(f'{mask:X}' for mask in masks)}")
    palette = data[14 + size : 22 + size]
    if bits in (4, 8) and used == 2 and palette[:3] + palette[4:7] == b"\0\0\0\xff\xff\xff":
        raise unsupported(f"BMP of {bits} bits with a palette of black and white")  # Pillow takes it for single bits
    if size == 124 and data[14 + 56 : 14 + 60] in (b"DEBM", b"KNIL"):
        raise unsupported("BMP with a color profile", "Convert the image to PNG")


def _tiff(data: bytes) -> None:
    if data[2:4] == b"\0+":
        raise unsupported("big-endian BigTIFF")
    stream = io.BytesIO(data)
    tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(16 if data[2:4] == b"+\0" else 8))
    stream.seek(tags.next)
    tags.next = -1
    tags.load(stream)
    if tags.next == -1:
        raise ValueError("a directory that Pillow reads in part, while libtiff goes on")
    width, height = _number(tags, 256), _number(tags, 257)
    if 50706 in tags or _number(tags, 254, 0) & 1:
        raise unsupported("TIFF of a camera's raw format, or that begins with a thumbnail,")
    across, down = _number(tags, 322, 0), _number(tags, 323, 0)
    if across * down > max(MAX_TILE_PIXELS, (width + 15) * (height + 15)):
        raise unsupported(f"TIFF of {width} x {height} pixels in tiles of {across} x {down}")
    packing, planar = _number(tags, 259, 1), _number(tags, 284, 1) == 2
    if (name := _TIFF_PACKINGS.get(packing, f"number {packing}")) is not None:
        raise unsupported(f"TIFF with {name} compression")
    space, bits, kinds = _number(tags, 262, 0), _several(tags.get(258, 1)), _several(tags.get(339, 1))
    if space not in _TIFF_COLORS:
        raise unsupported(f"TIFF of {_TIFF_SPACES.get(space, f'color space {space}')}")
    if set(kinds) - {1, 4}:
        raise unsupported(f"TIFF of {'floating-point' if 3 in kinds else 'signed or complex'} pixels of {bits[0]} bits")
    if len(set(bits)) > 1 or bits[0] not in _TIFF_BITS[space]:
        raise unsupported(f"TIFF of {' and '.join(map(str, sorted(set(bits))))} bits a channel in this color space")
    samples, extra = _number(tags, 277, 1), _several(tags.get(338, ()))
    if 1 in extra and bits[0] == 16:
        raise unsupported("TIFF of 16 bits with premultiplied alpha")  # Pillow divides in 8 bits
    if extra and planar and (space != 2 or len(extra) > 1):
        raise unsupported("TIFF of planes with channels besides the colors")  # Pillow drops some and mixes others
    if samples != _TIFF_COLORS[space] + len(extra):
        raise unsupported(f"TIFF of {samples} channels, {len(extra)} of them named as more than colors,")
    if _number(tags, 266, 1) != 1:
        raise unsupported("TIFF with bits in reverse order")
    if space == 3 and len(_several(tags[320])) != 3 << bits[0]:
        raise ImageError(ImageErrorCode.CORRUPT, "the color map of the TIFF is cut off")
    if packing == 7 and bits[0] != 8:
        raise unsupported(f"TIFF with JPEG of {bits[0]} bits")  # libtiff loses the last column of odd widths
    if _number(tags, 317, 1) != 1 and (bits[0] not in (8, 16) or packing in (1, 7, 32773)):
        raise unsupported(f"TIFF of {bits[0]} bits with a predictor in this compression")
    if space == 6 and packing != 7 and (planar or _several(tags.get(530, (2, 2)))[1] > 2):
        raise unsupported("TIFF of YCbCr in planes, or with colors shared by four rows")  # libtiff loses some pixels
    if _number(tags, 332, 1) != 1 or _several(tags.get(336, 0))[0] != 0:
        raise unsupported("TIFF of other inks than CMYK, or of inverted ones")
    if set(_several(tags.get(532, ()))) - {0, 128, 2 ** bits[0] - 1}:
        raise unsupported("TIFF with another black and white than its lowest and highest values")
    if packing == 7 and [round(float(share), 2) for share in _several(tags.get(529, tuple(_LUMA)))] != _LUMA:
        raise unsupported("TIFF with JPEG of other YCbCr coefficients than JPEG's own")  # libjpeg ignores them
    if (tags.prefix, space, (1,), 1, bits[:1] * samples, extra) not in TiffImagePlugin.OPEN_INFO:
        raise unsupported(f"TIFF of {samples} x {bits[0]} bits in this color space and byte order")


def _number(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, *default: int) -> int:
    value = tags.get(tag, *default)
    if not isinstance(value, int):  # bytes, or several
        raise ValueError(f"tag {tag} is no number")
    return value


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, bytes)) else (value,)
