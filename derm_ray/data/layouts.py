"""Checks of image headers: layouts that would be decoded incorrectly are refused by name.

Pillow reads some layouts without an error and wrongly, and calls others damaged. ``tests/corpus`` compares what passes
here with independent decoders.
"""

import io
import re
import struct
from typing import Any

from PIL import TiffImagePlugin

from derm_ray.data.image_errors import unsupported

_OTHERS = (
    (rb"....ftyp(hei[cxsm]|hev[cx]|mif1|msf1)", "HEIC, as iPhones save photos,"),
    (rb"....ftypavi[fs]", "AVIF"),
    (rb"....ftypcrx |FUJIFILMCCD-RAW|IIRO|IIRS|MMOR|IIU\0", "the raw format of a camera"),
    (rb"\0\0\0\x0cJXL |\xff\x0a", "JPEG XL"),
    (rb"II\xbc[\x00\x01]", "JPEG XR"),
    (rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.{,500}?-->\s*)?(<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]", "SVG"),
    (rb"%PDF-", "PDF"),
    (rb"8BPS", "Photoshop (PSD)"),
)
"""Signatures of formats that people take for photos, and that are not supported."""
_JPEG_PROCESSES = (
    dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical JPEG")
    | dict.fromkeys((0xC9, 0xCA), "arithmetic JPEG")
    | dict.fromkeys((0xC3, 0xCB), "lossless JPEG")
    | {0xF7: "JPEG-LS"}
)
_TIFF_PACKINGS = (1, 5, 7, 8, 32773, 32946, 34925, 50000)
"""Supported compressions."""
_TIFF_COLORS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}
_TIFF_BITS = {0: (1, 2, 4, 8, 16), 1: (1, 2, 4, 8, 12, 16), 2: (8, 16), 3: (1, 2, 4, 8), 5: (8, 16), 6: (8,)}
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
    """Refuse an image with an unsupported layout."""
    for magic, check in _CHECKS:
        if data.startswith(magic):
            check(data)


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
        raise unsupported(f"{bits}-bit JPEG")
    if parts not in (1, 3) and not (parts == 4 and adobe):
        raise unsupported(f"JPEG with {parts} components of unknown meaning")


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
            raise unsupported("PNG with other primary colors than sRGB (cHRM)", _TO_SRGB)
        if found.get(b"cICP", _SRGB_CICP) != _SRGB_CICP:
            raise unsupported("PNG in another color space than sRGB (cICP)", _TO_SRGB)
        if abs(gamma / 45455 - 1) > GAMMA_TOLERANCE and (bits == 16 or b"cICP" in found):
            raise unsupported(f"{bits}-bit PNG with another gamma than sRGB (gAMA)", _TO_SRGB)
    if b"tRNS" in found and (bits, color) in ((2, 0), (4, 0), (16, 2)):
        # Pillow compares scaled pixels with a color that is not scaled.
        raise unsupported(f"{bits}-bit PNG with one transparent color")


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
    if size not in (40, 52, 56, 64, 108, 124) or packing not in (0, 1, 2, 3) or (size == 64 and packing):
        raise unsupported(f"BMP with a header of {size} bytes and compression {packing}")
    if packing == 3:
        masks = struct.unpack_from("<4I", data, 54)
        masks = masks if size >= 56 else (*masks[:3], 0)
        if masks not in _BMP_MASKS.get(bits, set()):
            raise unsupported(f"{bits}-bit BMP with the masks {', '.join(f'{mask:X}' for mask in masks)}")
    palette = data[14 + size : 22 + size]
    if bits in (4, 8) and used == 2 and palette[:3] + palette[4:7] == b"\0\0\0\xff\xff\xff":
        raise unsupported(f"{bits}-bit BMP with a palette of black and white")  # Pillow takes it for single bits
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
        raise unsupported("camera raw TIFF, or TIFF that begins with a thumbnail,")
    across, down = _number(tags, 322, 0), _number(tags, 323, 0)
    if across * down > max(MAX_TILE_PIXELS, (width + 15) * (height + 15)):
        raise unsupported(f"TIFF with {width} x {height} pixels in tiles of {across} x {down}")
    packing, planar = _number(tags, 259, 1), _number(tags, 284, 1) == 2
    if packing not in _TIFF_PACKINGS:
        name = TiffImagePlugin.COMPRESSION_INFO.get(packing, "an unknown method")
        raise unsupported(f"TIFF compressed with {name} (number {packing})")
    space, bits, kinds = _number(tags, 262, 0), _several(tags.get(258, 1)), _several(tags.get(339, 1))
    if space not in _TIFF_COLORS:
        raise unsupported(f"TIFF with color space {space} (neither grayscale, RGB, CMYK nor YCbCr)")
    if set(kinds) - {1, 4}:
        raise unsupported(f"TIFF with {bits[0]}-bit {'floating-point' if 3 in kinds else 'signed or complex'} pixels")
    if len(set(bits)) > 1 or bits[0] not in _TIFF_BITS[space]:
        raise unsupported(f"TIFF with {' and '.join(map(str, sorted(set(bits))))} bits per channel in this color space")
    samples, extra = _number(tags, 277, 1), _several(tags.get(338, ()))
    if 1 in extra and bits[0] == 16:
        raise unsupported("16-bit TIFF with premultiplied alpha")  # Pillow divides in 8 bits
    if extra and planar and (space != 2 or len(extra) > 1):
        raise unsupported("planar TIFF with extra channels")  # Pillow drops some and mixes others
    if samples != _TIFF_COLORS[space] + len(extra):
        raise unsupported(f"TIFF with {samples} channels, {len(extra)} of them declared as extra,")
    if _number(tags, 266, 1) != 1:
        raise unsupported("TIFF with bits in reverse order")
    if space == 3 and len(_several(tags[320])) != 3 << bits[0]:
        raise ValueError("the color map is cut off")
    if packing == 7 and bits[0] != 8:
        raise unsupported(f"TIFF compressed with {bits[0]}-bit JPEG")  # libtiff loses the last column of odd widths
    if _number(tags, 317, 1) != 1 and (bits[0] not in (8, 16) or packing in (1, 7, 32773)):
        raise unsupported(f"{bits[0]}-bit TIFF with a predictor in this compression")
    if space == 6 and packing != 7 and (planar or _several(tags.get(530, (2, 2)))[1] > 2):
        raise unsupported("YCbCr TIFF in planes, or with colors shared by four rows,")  # libtiff loses some pixels
    if _number(tags, 332, 1) != 1 or _several(tags.get(336, 0))[0] != 0:
        raise unsupported("TIFF with other inks than CMYK, or inverted ones,")
    if set(_several(tags.get(532, ()))) - {0, 128, 2 ** bits[0] - 1}:
        raise unsupported("TIFF with another black and white than its lowest and highest values")
    if packing == 7 and [round(float(share), 2) for share in _several(tags.get(529, tuple(_LUMA)))] != _LUMA:
        raise unsupported("TIFF with JPEG of other YCbCr coefficients than JPEG's own")  # libjpeg ignores them
    if (tags.prefix, space, (1,), 1, bits[:1] * samples, extra) not in TiffImagePlugin.OPEN_INFO:
        raise unsupported(f"TIFF with {samples} x {bits[0]} bits in this color space and byte order")


def _number(tags: TiffImagePlugin.ImageFileDirectory_v2, tag: int, *default: int) -> int:
    value = tags.get(tag, *default)
    if not isinstance(value, int):  # bytes, or several
        raise ValueError(f"tag {tag} is not a number")
    return value


def _several(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, bytes)) else (value,)


_CHECKS = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG", _png),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0"), _tiff),
)
"""First bytes -> check."""
