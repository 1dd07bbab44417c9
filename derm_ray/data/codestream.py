"""JPEG 2000 codestreams (ISO/IEC 15444-1, annex A): reading their headers without decoding pixels."""

import struct
from dataclasses import dataclass

START = b"\xff\x4f\xff\x51"
MAX_TILES = 16_384
"""OpenJPEG takes several kilobytes for each tile before it decodes any."""
MAX_MAIN_HEADER = 1_000_000
_TILE_PART, _CODING_STYLE = b"\xff\x90", b"\xff\x52"


@dataclass(frozen=True)
class Codestream:
    """The main header's first segment (A.5.1).

    Attributes:
        size: width and height, in pixels.
        components: how many.
        bits, signed: of the first component.
        equal: whether all components are like the first one, and none is subsampled.
        tiles: how many there are.
        plain: whether image and tiles start at the origin, with at most :data:`MAX_TILES` tiles.
        end: where the segment ends.
    """

    size: tuple[int, int]
    components: int
    bits: int
    signed: bool
    equal: bool
    tiles: int
    plain: bool
    end: int


def read_codestream(data: bytes) -> Codestream:
    """Read the first segment of a codestream.

    Raises:
        ValueError, struct.error, ZeroDivisionError, IndexError: it is damaged.
    """
    if not data.startswith(START):
        raise ValueError("no codestream")
    length, _, right, bottom, left, top, width, height, *tiles_at, parts = struct.unpack_from(">HH8IH", data, 4)
    tiles = -(-right // width) * -(-bottom // height)
    return Codestream(
        size=(right - left, bottom - top),
        components=parts,
        bits=(data[42] & 0x7F) + 1,
        signed=bool(data[42] & 0x80),
        equal=data[42 : 42 + 3 * parts] == bytes([data[42], 1, 1]) * parts,
        tiles=tiles,
        plain=not (left or top or any(tiles_at)) and right * bottom <= MAX_TILES * width * height,
        end=4 + length,
    )


def find_tiles(data: bytes, header: Codestream) -> tuple[int, bool]:
    """Return the number of tiles present (A.4.2), and whether a color transform yields RGB (A.6.1).

    OpenJPEG leaves missing tiles black.

    Raises:
        ValueError, struct.error, IndexError: the codestream is damaged.
    """
    offset, transformed = header.end, False
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
