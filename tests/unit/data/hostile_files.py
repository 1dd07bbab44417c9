"""Hostile and broken images made for tests; run as a script, it prints the memory that good and bad ones take."""

import io
import json
import resource
import struct
import sys
import zipfile
import zlib

import numpy as np
import pydicom.uid as uids
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from derm_ray.data.decode import decode
from derm_ray.errors import ImageError

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "JPEG2000", "GIF", "BMP")


BROKEN = {"corrupt", "unsupported"}


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    if image is None:
        noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
        image = Image.fromarray(noise)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, pixels: bytes | None = None) -> bytes:
    """An RGB PNG with chunks before its pixels."""
    raw = b"\0" * (height * (1 + 3 * width)) if pixels is None else pixels
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def zeros(megabytes: int) -> bytes:
    """A zip bomb: zeros, compressed."""
    deflate = zlib.compressobj(9)
    return b"".join(deflate.compress(bytes(1_000_000)) for _ in range(megabytes)) + deflate.flush()


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0, count: int | None = None) -> bytes:
    """A TIFF of one directory at offset 8, behind it 64 zero bytes."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries) if count is None else count)
    return head + packed + struct.pack("<I", following) + bytes(64)


def tiff_entries(width: int, height: int, **changes: int) -> list[tuple[int, int, int, int]]:
    """The tags of a gray TIFF; its pixels are claimed to begin at offset 8."""
    values = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height}
    values |= {int(name[1:]): value for name, value in changes.items()}
    return [(tag, 4, 1, value & 0xFFFFFFFF) for tag, value in values.items()]


def bmp(width: int, height: int, bits: int = 24) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 48, 0, 0, 54) + info + bytes(48)


def gif_of_many_frames(frames: int) -> bytes:
    one = b"\x21\xf9\x04\x00\x01\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([0, 0, 0, 9, 9, 9]) + one * frames + b";"


def jpeg_2000(width: int, height: int, tile: int = 0) -> bytes:
    """A raw codestream whose SIZ segment claims another size, in one tile or in tiles of a size."""
    data = bytearray(encoded("JPEG2000", no_jp2=True))
    place = data.index(b"\xff\x51")
    struct.pack_into(">II", data, place + 6, width, height)
    struct.pack_into(">II", data, place + 22, tile or width, tile or height)
    return bytes(data)


def unequal_components() -> bytes:
    """A raw codestream whose second component claims 16 bits, twice the bytes of the first."""
    data = bytearray(encoded("JPEG2000", no_jp2=True))
    data[data.index(b"\xff\x51") + 43] = 15
    return bytes(data)


def repeating_palette() -> dict[str, object]:
    """A palette of a value and a reference to itself, twice: without an end, and more each time."""
    segments = np.array([0, 1, 7, 2, 3, 0, 0, 2, 3, 0, 0], "<u2").tobytes()
    elements: dict[str, object] = {"SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        elements[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"Segmented{color}PaletteColorLookupTableData"] = segments
    return elements


def webp(width: int, height: int) -> bytes:
    """An extended WebP of 24-bit sizes, with an image inside that is much smaller."""
    inner = encoded("WEBP", quality=50)[12:]
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg_of_size(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    place = next(i for i in range(len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    struct.pack_into(">HH", data, place + 5, height, width)
    return bytes(data)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return buffer.getvalue()


def dicom(syntax: str = uids.ExplicitVRLittleEndian, **values: object) -> bytes:
    """A dermoscopy image of 8 x 8 RGB pixels, with elements replaced."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uids.UID(syntax)
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.7", "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PlanarConfiguration = 8, 8, 3, 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PhotometricInterpretation, data.PixelData = "RGB", bytes(192)
    data["PixelData"].VR = "OB"
    for name, value in values.items():
        setattr(data, name, value)
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def dicom_meta(syntax: str = uids.ExplicitVRLittleEndian) -> bytes:
    """A preamble and file meta, nothing else."""
    return dicom(syntax, PixelData=encapsulate([b"\0\0"]) if uids.UID(syntax).is_compressed else bytes(192)).split(
        b"\x08\0\x16\0UI", 1
    )[0]


SEQUENCE = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)


ITEM = struct.pack("<HHI", 0xFFFE, 0xE000, 0)


def nested_sequences(levels: int) -> bytes:
    opening = SEQUENCE + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    return dicom_meta() + opening * levels


def many_elements(count: int) -> bytes:
    return dicom_meta() + b"".join(
        struct.pack("<HH2sH2s", 0x0011 + 2 * (i // 60_000), 0x1000 + i % 60_000, b"LO", 2, b"x ") for i in range(count)
    )


def spliced(data: bytes, marker: bytes, replacement: bytes) -> bytes:
    assert marker in data
    return data.replace(marker, replacement, 1)


def deflated() -> bytes:
    return dicom_meta(uids.DeflatedExplicitVRLittleEndian) + zeros(100)[2:-4]


IMAGES = {
    "text": (b"hello, this is no image\n" * 20, {"not_an_image"}),
    "html": (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", {"not_an_image"}),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>', {"unsupported"}),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%id) (r) file\n", {"not_an_image"}),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", {"unsupported"}),
    "pdf before a jpeg": (b"%PDF-1.7\n" + encoded("JPEG"), {"unsupported"}),
    "ppm": (b"P6 2 2 255 " + bytes(12), {"not_an_image"}),
    "zip": (zipped(), {"not_an_image"}),
    "one byte": (b"\xff", {"not_an_image"}),
    "no bytes": (b"", {"empty"}),
    "zeros": (bytes(10_000), {"not_an_image"}),
    "a jpeg with a zip behind it": (encoded("JPEG") + zipped(), {"picture"}),
    "a gif with a script behind it": (encoded("GIF") + b"*/=alert(1);//", {"picture"}),
    "png of 50,000 x 50,000": (png(50_000, 50_000, pixels=b""), {"too_many_pixels"}),
    "png of 2^31 x 2^31": (png(2**31 - 1, 2**31 - 1, pixels=b""), {"too_many_pixels"}),
    "png of no width": (png(0, 10), {"corrupt"}),
    "png that expands": (
        png(8, 8, pixels=b"")[:33] + chunk(b"IDAT", zeros(300)) + chunk(b"IEND", b""),
        {"picture", "corrupt"},
    ),
    "png with a bomb as text": (png(8, 8, chunk(b"zTXt", b"k\0\0" + zeros(200))), {"corrupt", "picture"}),
    "png with a bomb as international text": (
        png(8, 8, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros(200))),
        {"corrupt", "picture"},
    ),
    "png with a bomb as profile": (png(8, 8, chunk(b"iCCP", b"k\0\0" + zeros(200))), {"corrupt", "picture"}),
    "png with a thousand texts": (png(8, 8, *[chunk(b"zTXt", b"k\0\0" + zeros(1))] * 1000), {"corrupt", "picture"}),
    "png with a chunk of 2 GB": (png(8, 8, struct.pack(">I", 2**31 - 1) + b"IDAT"), BROKEN),
    "png with a wrong checksum": (png(8, 8)[:-20] + b"\0" * 20, BROKEN | {"picture"}),
    "apng of 2^31 frames": (png(8, 8, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))), {"picture", "corrupt"}),
    "jpeg of 65,535 x 65,535": (jpeg_of_size(65_535, 65_535), {"too_many_pixels"}),
    "jpeg larger than its data": (jpeg_of_size(7_000, 7_000), {"picture"}),
    "jpeg of no size": (jpeg_of_size(0, 0), BROKEN | {"picture"}),
    "jpeg with garbage as exif": (encoded("JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 500), {"picture"}),
    "jpeg with an exif loop": (
        encoded("JPEG", exif=b"Exif\0\0" + tiff([(0x8769, 4, 1, 8), (0x0112, 3, 1, 6)], following=8)),
        {"picture"},
    ),
    "jpeg with garbage as profile": (encoded("JPEG", icc_profile=b"\xff" * 5_000), {"picture"}),
    "gif of 200,000 frames": (gif_of_many_frames(200_000), {"picture"}),
    "gif of 65,535 x 65,535": (
        spliced(gif_of_many_frames(1), struct.pack("<HH", 1, 1), b"\xff" * 4),
        {"too_many_pixels"},
    ),
    "bmp of negative size": (bmp(-64, -64), {"too_many_pixels"}),
    "bmp upside down": (bmp(4, -4), {"picture"}),
    "bmp of 2^31 x 2^31": (bmp(2**31 - 1, 2**31 - 1), {"too_many_pixels"}),
    "bmp of -2^31": (bmp(-(2**31), -(2**31)), BROKEN | {"too_many_pixels"}),
    "bmp larger than its data": (bmp(7_000, 7_000), BROKEN),
    "bmp of 77 bits": (bmp(4, 4, 77), BROKEN),
    "jpeg 2000 of 50,000 x 50,000": (jpeg_2000(50_000, 50_000), {"too_many_pixels"}),
    "jpeg 2000 larger than its data": (jpeg_2000(2_000, 2_000), BROKEN | {"picture"}),
    "webp of 2^24 x 2^24": (webp(2**24, 2**24), {"too_many_pixels", "corrupt"}),
    "webp larger than its data": (webp(7_000, 7_000), BROKEN),
    "tiff of 2^31 x 2^31": (tiff(tiff_entries(2**31 - 1, 2**31 - 1)), {"too_many_pixels"}),
    "tiff larger than its data": (tiff(tiff_entries(7_000, 7_000)), BROKEN),
    "tiff without tags": (tiff([]), BROKEN),
    "tiff that follows itself": (tiff(tiff_entries(4, 4), following=8), {"picture"}),
    "tiff of 65,535 tags": (tiff(tiff_entries(4, 4), count=65_535), BROKEN | {"picture"}),
    "tiff with a tag of 4 GB": (
        tiff([*tiff_entries(4, 4), (270, 2, 2**32 - 1, 8), (34675, 7, 2**32 - 1, 8)]),
        BROKEN | {"picture"},
    ),
    "tiff of 65,535 samples": (tiff(tiff_entries(4, 4, t277=65_535)), BROKEN),
    "tiff of huge tiles": (
        tiff([*tiff_entries(64, 64, t259=8), (322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (325, 4, 1, 64)]),
        BROKEN,
    ),
    "tiff of long tiles": (
        tiff([*tiff_entries(64, 64), (322, 4, 1, 16), (323, 4, 1, 2**26), (324, 4, 1, 8), (325, 4, 1, 64)]),
        {"unsupported"},
    ),
    "tiff with a palette that is cut off": (
        tiff([*tiff_entries(4, 4, t262=3), (320, 3, 4, 8 + 2 + 12 * 10 + 4)]),
        {"corrupt"},
    ),
    "tiff of garbage in deflate": (tiff(tiff_entries(64, 64, t259=8)), BROKEN),
    "tiff of garbage in lzw": (tiff(tiff_entries(64, 64, t259=5)), BROKEN),
    "tiff of garbage in jpeg": (tiff(tiff_entries(64, 64, t259=7)), BROKEN),
    "tiff of garbage in fax": (tiff(tiff_entries(64, 64, t259=4, t258=1)), BROKEN | {"picture"}),
    "tiff of garbage in an unknown packing": (tiff(tiff_entries(64, 64, t259=34_712)), BROKEN),
    "dicom of nothing": (bytes(128) + b"DICM", BROKEN),
    "dicom of 65,535 x 65,535": (dicom(Rows=65_535, Columns=65_535), {"too_many_pixels"}),
    "dicom of 2^31 frames": (dicom(NumberOfFrames=2**31 - 1), {"picture"}),
    "dicom larger than its data": (dicom(Rows=7_000, Columns=7_000), {"corrupt"}),
    "dicom of no size": (dicom(Rows=0), {"corrupt", "unsupported"}),
    "dicom of 0 bits": (dicom(BitsStored=0), {"unsupported"}),
    "dicom without pixels": (dicom().split(b"\xe0\x7f\x10\0", 1)[0], {"corrupt"}),
    "dicom with an element of 4 GB": (
        dicom_meta() + struct.pack("<HH2sHI", 0x0008, 0x0008, b"UT", 0, 0xFFFFFFFE) + b"x" * 100,
        BROKEN,
    ),
    "dicom of 10,000 nested sequences": (nested_sequences(10_000), BROKEN),
    "dicom of 200,000 elements": (many_elements(200_000), BROKEN),
    "dicom of 400,000 items": (dicom_meta() + SEQUENCE + ITEM * 400_000, BROKEN),
    "dicom of 400,000 items in a known length": (
        dicom_meta() + SEQUENCE[:8] + struct.pack("<I", 400_000 * 8) + ITEM * 400_000,
        BROKEN,
    ),
    "dicom that is deflated": (deflated(), {"unsupported"}),
    "dicom of another class": (dicom(SOPClassUID=uids.CTImageStorage), {"unsupported"}),
    "dicom with text as frame": (
        dicom(uids.JPEGBaseline8Bit, PixelData=encapsulate([b"no image"])),
        {"not_an_image", "corrupt"},
    ),
    "dicom with a jpeg of another size": (
        dicom(uids.JPEGBaseline8Bit, PixelData=encapsulate([jpeg_of_size(7_000, 7_000)])),
        {"corrupt"},
    ),
    "dicom with a jpeg of 65,535 x 65,535": (
        dicom(uids.JPEGBaseline8Bit, PixelData=encapsulate([jpeg_of_size(65_535, 65_535)])),
        {"corrupt"},
    ),
    "dicom with a jpeg 2000 of another size": (
        dicom(uids.JPEG2000, PixelData=encapsulate([jpeg_2000(2_000, 2_000)])),
        {"corrupt"},
    ),
    "dicom with a jpeg 2000 of 50,000 x 50,000": (
        dicom(uids.JPEG2000, PixelData=encapsulate([jpeg_2000(50_000, 50_000)])),
        {"too_many_pixels"},
    ),
    "dicom with a jpeg 2000 larger than its data": (
        dicom(uids.JPEG2000, Rows=2_000, Columns=2_000, PixelData=encapsulate([jpeg_2000(2_000, 2_000)])),
        {"corrupt", "picture"},
    ),
    "dicom with a jpeg 2000 of 49 million tiles": (
        dicom(uids.JPEG2000, Rows=7_000, Columns=7_000, PixelData=encapsulate([jpeg_2000(7_000, 7_000, tile=1)])),
        {"unsupported"},
    ),
    "dicom with a jpeg 2000 of tiles that are not there": (
        dicom(uids.JPEG2000, Rows=7_000, Columns=7_000, PixelData=encapsulate([jpeg_2000(7_000, 7_000, tile=64)])),
        {"corrupt"},
    ),
    "dicom with a jpeg 2000 of unequal components": (
        dicom(uids.JPEG2000, Rows=96, Columns=128, PixelData=encapsulate([unequal_components()])),
        {"unsupported"},
    ),
    "dicom with a jpeg 2000 in a box of no length": (
        dicom(uids.JPEG2000, PixelData=encapsulate([b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(10_000)])),
        {"corrupt"},
    ),
    "dicom with a jpeg 2000 of empty segments": (
        dicom(uids.JPEG2000, PixelData=encapsulate([jpeg_2000(8, 8)[:51] + b"\xff\x30\0\2" * 2_000_000])),
        {"corrupt"},
    ),
    "dicom with a segmented palette that repeats itself": (dicom(**repeating_palette()), {"unsupported"}),
    "dicom with a pdf as frame": (dicom(uids.JPEG2000, PixelData=encapsulate([b"%PDF-1.7"])), {"corrupt"}),
}


def outcome(data: bytes) -> str:
    """Return ``picture``, or the code of the error."""
    try:
        image = decode(data).image
    except ImageError as error:
        return error.code
    assert image.mode == "RGB"
    return "picture"


def _peaks() -> list[int]:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encoded("JPEG", Image.new("RGB", (7_071, 7_071), "tan"), exif=exif)
    assert outcome(photo) == "picture"
    good = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data, _ in IMAGES.values():
        outcome(data)
    return [good, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_peaks()))
