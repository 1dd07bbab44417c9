"""JPEG 2000 files (ISO/IEC 15444-1); ambiguous layouts are refused by their headers."""

import struct
from collections.abc import Iterator

import numpy as np
from openjpeg.utils import decode as decode_openjpeg
from PIL import Image

from derm_ray.data.codestream import START, read_codestream
from derm_ray.data.image_errors import unsupported

_FILE = b"\0\0\0\x0cjP  \r\n\x87\n"
_GRAY, _SRGB, _SYCC, _PROFILE, _UNSTATED = "gray", "sRGB", "sYCC", "of a profile", "not stated"
_MODES = {
    **{(space, 1, False): "L" for space in (_GRAY, _PROFILE, _UNSTATED)},
    **{(space, 2, True): "LA" for space in (_GRAY, _PROFILE)},
    **{(space, 3, False): "RGB" for space in (_SRGB, _PROFILE, _UNSTATED)},
    **{(space, 4, True): "RGBA" for space in (_SRGB, _PROFILE)},
    (_SYCC, 3, False): "YCbCr",
}
"""Of color space, components and whether the last one is alpha."""


def is_jpeg_2000(data: bytes) -> bool:
    """Return whether bytes start like a JPEG 2000 file or a bare codestream."""
    return data.startswith((START, _FILE))


def decode_jpeg_2000(data: bytes) -> Image.Image:
    """Decode a JP2 or JPX file, or a codestream, with OpenJPEG.

    Read are 1 to 16 unsigned bits of gray, sRGB or (8 bits) sYCC, or with a color profile; the former with or without
    alpha.

    Returns:
        Mode L, LA, RGB, RGBA or YCbCr, 8 bits a channel (the upper 8 of more), with the ICC profile in its
        ``info``, and there as ``deep`` whether there were more.

    Raises:
        ImageError: ``too_many_pixels`` or ``unsupported``.
        Exception: for damaged files.
    """
    space, alpha, profile, codestream = _UNSTATED, False, b"", data
    if data.startswith(_FILE):
        boxes = dict(_boxes(data))
        header: dict[bytes, bytes] = {}
        for kind, content in _boxes(boxes[b"jp2h"]):
            header.setdefault(kind, content)  # the first color specification counts
        if header.keys() & {b"pclr", b"cmap"}:
            raise unsupported("JPEG 2000 with a palette")
        space, profile = _color(header.get(b"colr", b""))
        alpha = _has_alpha(header.get(b"cdef", b""))
        codestream = boxes[b"jp2c"]
    found = read_codestream(codestream)
    bits, mode = found.bits, _MODES.get((space, found.components, alpha))
    if found.signed or bits > 16:
        raise unsupported(f"JPEG 2000 with {'signed' if found.signed else f'{bits}-bit'} components")
    if mode is None or (space == _SYCC and bits != 8):
        raise unsupported(f"JPEG 2000 with {found.components} components, {bits} bits each, in color space {space},")
    values = decode_openjpeg(codestream, j2k_format=0)
    if bits < 8:
        values = np.rint(values * (255 / (2**bits - 1)))
    elif bits > 8:
        values = values >> (bits - 8)
    pixels = values.astype(np.uint8)
    image = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
    image.info["deep"] = bits > 8
    if profile:
        image.info["icc_profile"] = profile
    return image


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of boxes (I.4), up to the codestream."""
    offset = 0
    while offset + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        head = 8
        if length == 1:
            (length,), head = struct.unpack_from(">Q", data, offset + 8), 16
        if length == 0:
            length = len(data) - offset
        if length < head:
            raise ValueError("a box of no length")
        yield kind, data[offset + head : offset + length]
        if kind == b"jp2c":
            return
        offset += length


def _color(box: bytes) -> tuple[str, bytes]:
    """Return color space and ICC profile of a color specification box (I.5.3.3)."""
    if not box:
        return _UNSTATED, b""
    if box[0] in (2, 3):
        return _PROFILE, box[3:]
    (number,) = struct.unpack_from(">I", box, 3)
    space = {16: _SRGB, 17: _GRAY, 18: _SYCC}.get(number) if box[0] == 1 else None
    if space is None:
        raise unsupported(f"JPEG 2000 of color space {number} (method {box[0]})")
    return space, b""


def _has_alpha(box: bytes) -> bool:
    """Return whether a channel definition box (I.5.3.6) makes the last channel alpha."""
    if not box:
        return False
    (count,) = struct.unpack_from(">H", box)
    channels = sorted(struct.iter_unpack(">3H", box[2 : 2 + 6 * count]))
    alpha = channels[-1][1:] == (1, 0)
    colors = channels[:-1] if alpha else channels
    if colors != [(number, 0, number + 1) for number in range(len(colors))]:
        raise unsupported("JPEG 2000 with channels in another order, or of other kinds than colors and alpha")
    return alpha
