"""JPEG 2000 codestreams (ISO/IEC 15444-1, annex A): reading their headers without decoding pixels."""

import struct
from dataclasses import dataclass

from derm_ray.data.image_errors import require_size, unsupported

START = b"\xff\x4f\xff\x51"
MAX_TILES = 16_384
"""OpenJPEG takes several kilobytes for each tile before it decodes any."""
MAX_MAIN_HEADER = 1_000_000
_TILE_PART, _CODING_STYLE = b"\xff\x90", b"\xff\x52"


@dataclass(frozen=True)
class Codestream:
    """What the main header says (A.5.1).

    Attributes:
        size: width and height, in pixels.
        components: how many; all have the same bits and size.
        bits, signed: of each component.
        transformed: whether a color transform yields RGB (A.6.1).
    """

    size: tuple[int, int]
    components: int
    bits: int
    signed: bool
    transformed: bool


def read_codestream(data: bytes) -> Codestream:
    """Read and check the header of a codestream, and that all of its tiles are there: OpenJPEG leaves others black."""
    if not data.startswith(START):
        raise ValueError("no codestream")
    length, _, right, bottom, left, top, width, height, *tiles_at, components = struct.unpack_from(">HH8IH", data, 4)
    size = right - left, bottom - top
    require_size(*size)
    if data[42 : 42 + 3 * components] != bytes([data[42], 1, 1]) * components:
        raise unsupported("JPEG 2000 with components of unequal depth or size")
    tiles = -(-right // width) * -(-bottom // height)
    if left or top or any(tiles_at) or tiles > MAX_TILES:
        raise unsupported(f"JPEG 2000 with an offset, or more than {MAX_TILES} tiles,")
    found, transformed = _find_tiles(data, 4 + length)
    if found < tiles:
        raise ValueError(f"{found} of {tiles} tiles")
    return Codestream(size, components, (data[42] & 0x7F) + 1, bool(data[42] & 0x80), transformed)


def _find_tiles(data: bytes, offset: int) -> tuple[int, bool]:
    """Return the number of tiles (A.4.2), and whether there is a color transform, from the second segment on."""
    transformed = False
    while (marker := data[offset : offset + 2]) != _TILE_PART:
        if len(marker) < 2 or offset > MAX_MAIN_HEADER:
            raise ValueError("no tile")
        transformed |= marker == _CODING_STYLE and data[offset + 8] != 0
        offset += 2 + struct.unpack_from(">H", data, offset + 2)[0]
    found = set()
    while data[offset : offset + 2] == _TILE_PART:
        tile, size = struct.unpack_from(">HI", data, offset + 4)
        found.add(tile)
        offset += max(size, 12) if size else len(data)
    return len(found), transformed
