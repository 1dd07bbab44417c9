import io
import re
import warnings
from collections import Counter

import imagecodecs
import numpy as np
import pydicom.uid as uids
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import convert_color_space

from derm_ray.data import image_errors
from derm_ray.data.archives.dicom_pairs import index_dicom
from derm_ray.data.decode import decode
from derm_ray.data.dicom import is_dicom, read_header
from derm_ray.data.manifest import SCHEMA
from derm_ray.domain import Modality
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"
CLINICAL = "1.2.840.10008.5.1.4.1.1.77.1.4"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
PICTURE = np.zeros((16, 24, 3), np.uint8) + np.array([200, 120, 90], np.uint8)
PICTURE[4:12, 6:18] = (60, 40, 30)
RAMP = np.tile(np.arange(24, dtype=np.uint16) * 170, (16, 1))


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PICTURE)).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_without_marks(bands: Image.Image) -> bytes:
    """A JPEG of three bands stored as they are, without a JFIF or Adobe marker."""
    data = encoded("JPEG", bands, quality=95, subsampling=0, keep_rgb=True)
    mark = data[2:4]
    assert mark in (b"\xff\xe0", b"\xff\xee")
    data = data[:2] + data[(20 if mark == b"\xff\xe0" else 18) :]
    frame = data.index(b"\xff\xc0")
    for band, place in enumerate((frame + 10, frame + 13, frame + 16), 1):
        data = data[:place] + bytes([band]) + data[place + 1 :]
    scan = data.index(b"\xff\xda")
    for band, place in enumerate((scan + 5, scan + 7, scan + 9), 1):
        data = data[:place] + bytes([band]) + data[place + 1 :]
    return data


def dicom(
    pixels: bytes, syntax: str = uids.ExplicitVRLittleEndian, sop_class: str = DERMOSCOPY, **values: object
) -> bytes:
    """A DICOM file of RGB pixels of 16 x 24, with elements replaced."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = uids.UID(syntax)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, uids.generate_uid(entropy_srcs=[repr(values), sop_class])
    data.Rows, data.Columns, data.SamplesPerPixel, data.PlanarConfiguration = 16, 24, 3, 0
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 8, 8, 7, 0
    data.PhotometricInterpretation = "RGB"
    for name, value in values.items():
        setattr(data, name, value)
    data.PixelData = pixels
    data["PixelData"].VR = "OW" if data.BitsAllocated > 8 else "OB"
    buffer = io.BytesIO()
    little = syntax != uids.ExplicitVRBigEndian
    data.save_as(
        buffer, implicit_vr=syntax == uids.ImplicitVRLittleEndian, little_endian=little, enforce_file_format=True
    )
    return buffer.getvalue()


def gray(values: np.ndarray, bits: int, **more: object) -> bytes:
    allocated = values.dtype.itemsize * 8
    elements = {"BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1, "SamplesPerPixel": 1}
    return dicom(values.tobytes(), **(elements | {"PhotometricInterpretation": "MONOCHROME2"} | more))


def shown(data: bytes) -> np.ndarray:
    assert is_dicom(data)
    image = decode(data).image
    assert image.mode == "RGB"
    return np.asarray(image)


def refused(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data)
    return caught.value


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian])
@pytest.mark.parametrize("sop_class", [DERMOSCOPY, CLINICAL, SECONDARY, "1.2.840.10008.5.1.4.1.1.7.4"])
def test_native_pixels_are_shown_as_they_are(syntax: str, sop_class: str) -> None:
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), syntax, sop_class)), PICTURE)


def test_native_planes_and_other_color_spaces_become_rgb() -> None:
    planes = np.moveaxis(PICTURE, 2, 0)
    assert np.array_equal(shown(dicom(planes.tobytes(), PlanarConfiguration=1)), PICTURE)
    ybr = convert_color_space(PICTURE, "RGB", "YBR_FULL")
    full = shown(dicom(ybr.tobytes(), PhotometricInterpretation="YBR_FULL"))
    assert np.abs(full.astype(int) - PICTURE).max() <= 2
    halved = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], -1)
    subsampled = shown(dicom(halved.tobytes(), PhotometricInterpretation="YBR_FULL_422"))
    assert np.abs(subsampled.astype(int) - PICTURE).max() <= 2
    deep = dicom((PICTURE.astype(np.uint16) << 4).tobytes(), BitsAllocated=16, BitsStored=12, HighBit=11)
    assert np.array_equal(shown(deep), PICTURE)


def test_grays_keep_their_brightness_and_polarity() -> None:
    expected = np.rint(RAMP / 4095 * 255)
    assert np.array_equal(shown(gray(RAMP, 12))[..., 0], expected)
    assert np.array_equal(shown(gray(RAMP, 12, PhotometricInterpretation="MONOCHROME1"))[..., 0], 255 - expected)
    signed = (RAMP.astype(np.int16) - 2048) & np.int16(0x0FFF)
    assert np.array_equal(shown(gray(signed, 12, PixelRepresentation=1))[..., 0], expected)
    eight = (RAMP >> 4).astype(np.uint8)
    assert np.array_equal(shown(gray(eight, 8))[..., 1], eight)


def test_a_window_stretches_what_it_shows() -> None:
    window = {"WindowCenter": 1000, "WindowWidth": 1000}
    middle = shown(gray(RAMP, 12, **window))[0, :, 0]
    assert middle[0] == 0
    assert middle[-1] == 255
    assert abs(int(middle[6]) - round((1020 - 500) / 999 * 255)) <= 1
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), **window)), PICTURE), "colors have no window"
    rescaled = gray(RAMP, 12, WindowCenter=[900, 5], WindowWidth=[1000, 5], RescaleSlope=1, RescaleIntercept=-100)
    assert np.array_equal(shown(rescaled)[0, :, 0], middle)


@pytest.mark.parametrize(
    ("syntax", "photometric", "frame"),
    [
        (uids.JPEGBaseline8Bit, "YBR_FULL_422", encoded("JPEG", quality=95)),
        (uids.JPEGBaseline8Bit, "RGB", encoded("JPEG", quality=95)),  # the header is wrong, JFIF is right
        (uids.JPEGBaseline8Bit, "RGB", encoded("JPEG", quality=95, keep_rgb=True)),
        (uids.JPEGBaseline8Bit, "RGB", jpeg_without_marks(Image.fromarray(PICTURE))),
        (uids.JPEGBaseline8Bit, "YBR_FULL", jpeg_without_marks(Image.fromarray(PICTURE).convert("YCbCr"))),
        (uids.JPEG2000, "YBR_ICT", encoded("JPEG2000", no_jp2=True, irreversible=True)),
        (uids.JPEG2000Lossless, "YBR_RCT", encoded("JPEG2000", no_jp2=True)),
        (uids.JPEG2000Lossless, "RGB", encoded("JPEG2000", no_jp2=True, mct=0)),
    ],
)
def test_encapsulated_frames_show_the_same_picture(syntax: str, photometric: str, frame: bytes) -> None:
    data = dicom(encapsulate([frame]), syntax, PhotometricInterpretation=photometric)
    assert np.abs(shown(data).astype(int) - PICTURE).mean() < 3
    in_pieces = dicom(encapsulate([frame], fragments_per_frame=3), syntax, PhotometricInterpretation=photometric)
    assert np.array_equal(shown(in_pieces), shown(data))


def test_encapsulated_colors_that_were_not_converted_are_converted() -> None:
    bands = Image.merge("RGB", Image.fromarray(PICTURE).convert("YCbCr").split())
    frame = encapsulate([encoded("JPEG2000", bands, no_jp2=True, mct=0)])
    data = dicom(frame, uids.JPEG2000Lossless, PhotometricInterpretation="YBR_FULL")
    assert np.abs(shown(data).astype(int) - PICTURE).max() <= 3


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_encapsulated_grays_keep_their_brightness(photometric: str) -> None:
    frame = encapsulate([encoded("JPEG2000", Image.fromarray(RAMP << 4), no_jp2=True)])
    elements = {"BitsAllocated": 16, "BitsStored": 16, "HighBit": 15, "SamplesPerPixel": 1}
    data = dicom(frame, uids.JPEG2000Lossless, PhotometricInterpretation=photometric, **elements)
    expected = np.rint((RAMP << 4) / 65535 * 255)
    assert np.array_equal(shown(data)[..., 0], 255 - expected if photometric == "MONOCHROME1" else expected)


def jpeg_2000(values: np.ndarray, bits: int = 8, **options: object) -> bytes:
    """An encapsulated frame without loss."""
    kept = {"codecformat": "j2k", "level": 0, "reversible": True, "bitspersample": bits} | options
    return encapsulate([imagecodecs.jpeg2k_encode(values, **kept)])


def packed_gray(frame: bytes, bits: int, signed: bool = False, **more: object) -> bytes:
    elements = {"BitsAllocated": 16, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    gray = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    return dicom(frame, uids.JPEG2000Lossless, **(elements | gray | more))


def test_jpeg_2000_and_native_values_show_the_same() -> None:
    """Whatever their sign, and whatever bits and sign the codestream says."""
    unsigned = RAMP.astype(np.uint16)
    signed = RAMP.astype(np.int16) - 2048
    expected = shown(gray(unsigned, 12))
    assert np.array_equal(shown(gray(signed, 12, PixelRepresentation=1)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(unsigned, 12), 12)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(unsigned, 16), 12)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(signed, 12), 12, signed=True)), expected)
    assert np.array_equal(shown(packed_gray(jpeg_2000(signed, 16), 12, signed=True)), expected)
    as_unsigned = jpeg_2000((signed & 0xFFF).astype(np.uint16), 12)
    assert np.array_equal(shown(packed_gray(as_unsigned, 12, signed=True)), expected)
    ambiguous = refused(packed_gray(jpeg_2000(unsigned, 16), 12, signed=True))
    assert ambiguous.code is ImageErrorCode.UNSUPPORTED


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("odd", [0, 1])
def test_bytes_in_big_endian_words_are_swapped(frames: int, odd: int) -> None:
    picture = PICTURE[: 16 - odd, : 24 - odd]
    every = np.concatenate([picture.ravel()] + [255 - picture.ravel()] * (frames - 1))
    elements = {"NumberOfFrames": frames, "Rows": picture.shape[0], "Columns": picture.shape[1]}
    every = np.append(every, np.zeros(every.size % 2, np.uint8))
    for vr, data in (("OB", every.tobytes()), ("OW", every.view("<u2").astype(">u2").tobytes())):
        file = dicom(data, uids.ExplicitVRBigEndian, **elements)
        assert np.array_equal(shown(file.replace(b"\x7f\xe0\x00\x10OB", b"\x7f\xe0\x00\x10" + vr.encode())), picture)


def test_an_element_without_a_value_counts_as_absent() -> None:
    eight = (RAMP >> 4).astype(np.uint8)
    for names in (("WindowCenter", "WindowWidth"), ("RescaleSlope", "RescaleIntercept"), ("VOILUTFunction", "HighBit")):
        assert np.array_equal(shown(gray(eight, 8, **dict.fromkeys(names)))[..., 0], eight)
    assert np.array_equal(shown(gray(eight, 8, VOILUTSequence=[], ModalityLUTSequence=[]))[..., 0], eight)
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), NumberOfFrames=None, ICCProfile=None)), PICTURE)
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), PixelRepresentation=None)), PICTURE), "colors have no sign"
    missing = refused(dicom(PICTURE.tobytes(), BitsStored=None, Rows=None))
    assert (missing.code, missing.message) == (
        ImageErrorCode.CORRUPT,
        "the DICOM header has no value for Rows, BitsStored",
    )


def test_names_in_small_letters_and_odd_depths_are_read() -> None:
    small = dicom(PICTURE.tobytes()).replace(b"CS\4\0RGB ", b"CS\4\0rgb ")
    assert np.array_equal(shown(small), PICTURE)
    seven = shown(dicom((PICTURE >> 1).tobytes(), BitsStored=7, HighBit=6))
    assert np.array_equal(seven, np.rint((PICTURE >> 1) * (255 / 127)))


def test_a_frame_that_contradicts_its_header_is_refused() -> None:
    wide = refused(dicom(jpeg_2000(PICTURE), uids.JPEG2000Lossless, Columns=23))
    assert (wide.code, wide.message) == (ImageErrorCode.CORRUPT, "the frame is 24 x 16, its DICOM header says 23 x 16")
    bands = dicom(jpeg_2000(PICTURE), uids.JPEG2000Lossless, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")
    deep = dicom(jpeg_2000(PICTURE.astype(np.uint16) << 4, 12), uids.JPEG2000Lossless)
    converted = dicom(jpeg_2000(PICTURE, mct=True), uids.JPEG2000Lossless, PhotometricInterpretation="YBR_FULL")
    signed = dicom(jpeg_2000(PICTURE.astype(np.int8)), uids.JPEG2000Lossless)
    for data in (bands, deep, converted, signed):
        assert refused(data).code is ImageErrorCode.UNSUPPORTED
    whole = encoded("JPEG2000", no_jp2=True, tile_size=(8, 8))
    first_tile = whole[: whole.index(b"\xff\x90", whole.index(b"\xff\x90") + 2)]
    assert np.array_equal(shown(dicom(encapsulate([whole]), uids.JPEG2000Lossless)), PICTURE)
    partly = refused(dicom(encapsulate([first_tile + b"\xff\xd9"]), uids.JPEG2000Lossless))
    assert partly.code is ImageErrorCode.CORRUPT
    assert "1 of 6 tiles" in partly.message


def test_the_marks_of_a_jpeg_frame_tell_its_colors() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jfif = encoded("JPEG", quality=95, exif=exif, subsampling=0)
    length = int.from_bytes(jfif[4:6], "big")
    camera = jfif[:2] + jfif[4 + length :]  # EXIF, no JFIF
    subsampled = encoded("JPEG", quality=95, subsampling=2)
    unmarked = subsampled[:2] + subsampled[4 + int.from_bytes(subsampled[4:6], "big") :]
    for frame in (jfif, camera, subsampled, unmarked):
        colors = shown(dicom(encapsulate([frame]), uids.JPEGBaseline8Bit))
        assert np.abs(colors.astype(int) - PICTURE).mean() < 3, "as it is stored: a DICOM header knows no EXIF"


def test_a_profile_of_the_data_set_is_honored() -> None:
    from tests.unit.data.test_decode import WIDE_GAMUT

    plain = dicom(PICTURE.tobytes())
    profiled = dicom(PICTURE.tobytes(), ICCProfile=WIDE_GAMUT)
    frame = encapsulate([encoded("JPEG", quality=95)])
    assert (shown(profiled)[0, 0].astype(int) - shown(plain)[0, 0])[0] > 20
    assert shown(dicom(frame, uids.JPEGBaseline8Bit, ICCProfile=WIDE_GAMUT))[0, 0, 0] > 220
    assert np.array_equal(shown(dicom(PICTURE.tobytes(), ICCProfile=b"garbage!")), PICTURE)


def test_the_first_of_several_frames_is_taken_and_flagged() -> None:
    two = PICTURE.tobytes() + bytes(PICTURE.nbytes)
    decoded = decode(dicom(two, NumberOfFrames=2))
    assert decoded.flags == ("animated",)
    assert np.array_equal(np.asarray(decoded.image), PICTURE)
    frames = encapsulate([encoded("JPEG", quality=95), encoded("JPEG", Image.new("RGB", (24, 16)))])
    packed = decode(dicom(frames, uids.JPEGBaseline8Bit, NumberOfFrames=2, BurnedInAnnotation="YES"))
    assert packed.flags == ("animated", "burned_in_annotation")
    assert np.abs(np.asarray(packed.image).astype(int) - PICTURE).mean() < 3
    assert decode(dicom(PICTURE.tobytes(), BurnedInAnnotation="NO")).flags == ()


def test_what_is_not_supported_is_named() -> None:
    error = refused(dicom(PICTURE.tobytes(), sop_class=uids.CTImageStorage))
    assert error.code is ImageErrorCode.UNSUPPORTED
    assert "CT Image Storage (1.2.840.10008.5.1.4.1.1.2)" in error.message
    for syntax in (uids.RLELossless, uids.JPEGLSLossless, uids.DeflatedExplicitVRLittleEndian):
        pixels = encapsulate([bytes(64)]) if syntax.is_encapsulated else PICTURE.tobytes()
        error = refused(dicom(pixels, syntax))
        assert error.code is ImageErrorCode.UNSUPPORTED
        assert syntax.name in error.message
    deep = np.zeros((16, 24, 3), np.uint32).tobytes()
    twelve = imagecodecs.jpeg8_encode(RAMP, level=95, bitspersample=12)
    wide = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11}
    gray_jpeg = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}
    for data, named in (
        (dicom(PICTURE.tobytes(), PhotometricInterpretation="HSV"), "HSV"),
        (dicom(bytes(384), SamplesPerPixel=1, PhotometricInterpretation="PALETTE COLOR"), "PALETTE COLOR"),
        (dicom(deep, BitsAllocated=32, BitsStored=32, HighBit=31), "32 of 32 bits"),
        (dicom(deep, BitsAllocated=16, BitsStored=16, PhotometricInterpretation="YBR_FULL"), "YBR_FULL, 16 of 16"),
        (dicom(PICTURE.tobytes(), PhotometricInterpretation="YBR_RCT"), "uncompressed.*YBR_RCT"),
        (dicom(PICTURE.tobytes(), PhotometricInterpretation="YBR_FULL_422"), "YBR_FULL_422 that is planar"),
        (dicom(PICTURE.tobytes(), PixelRepresentation=1), "signed"),
        (gray(RAMP, 12, HighBit=15), "high bit 15"),
        (gray(RAMP, 12, WindowCenter=5, WindowWidth=0), "Window Width"),
        (gray(RAMP, 12, WindowCenter=5, WindowWidth=9, VOILUTFunction="CUBIC"), "CUBIC"),
        (gray(RAMP, 12, RescaleSlope=0, RescaleIntercept=1), "slope of 0"),
        (
            dicom(encapsulate([twelve]), uids.JPEGExtended12Bit, **gray_jpeg, **wide),
            "JPEG frames that do not have 8 unsigned bits.*12 of 16 bits",
        ),
        (dicom(encapsulate([twelve]), uids.JPEGExtended12Bit, **gray_jpeg), "12-bit"),
        (dicom(PICTURE.tobytes()).replace(b"\xe0\x7f\x10\0OB", b"\xe0\x7f\x08\0OF"), "floating-point"),
    ):
        error = refused(data)
        assert error.code is ImageErrorCode.UNSUPPORTED
        assert re.search(named, error.message)
        assert error.message.endswith("is not supported. Export the image as 8-bit PNG or JPEG")


def test_the_pixel_cap_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_errors, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="at most") as caught:
        decode(dicom(PICTURE.tobytes()))
    assert caught.value.code is ImageErrorCode.TOO_MANY_PIXELS


def test_a_header_tells_patient_lesion_and_kind() -> None:
    item = Dataset()
    item.TrackingID, item.TrackingUID = "left arm 1", "1.2.3.4"
    values = {"PatientID": "P7", "PatientAge": "018M", "PatientSex": "F", "BurnedInAnnotation": "YES"}
    data = dicom(PICTURE.tobytes(), AcquisitionDateTime="20240102", ReferencedImageSequence=[item], **values)
    for part in (data, data[: -PICTURE.nbytes]):
        header = read_header(part)
        assert (header.patient_id, header.tracking_id, header.tracking_uid) == ("P7", "left arm 1", "1.2.3.4")
        assert (header.modality, header.burned_in) == (Modality.DERMOSCOPY, True)
        assert (header.age_years, header.sex) == (1.5, "female")
    bare = read_header(dicom(PICTURE.tobytes(), sop_class=SECONDARY))
    assert (bare.patient_id, bare.tracking_id, bare.modality, bare.age_years, bare.sex) == (None,) * 5


def test_odd_values_are_read_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = dicom(PICTURE.tobytes(), PatientAge="very old", StudyDate="yesterday", PatientID="x" * 100)
    assert read_header(data).age_years is None
    assert np.array_equal(shown(data), PICTURE)
    assert capfd.readouterr() == ("", "")


class Files(dict[str, bytes]):
    """DICOM files by URI."""

    def add(self, uri: str, sop_class: str, patient: str, lesion: str | None, time: str = "", **values: object) -> None:
        tracking = {"TrackingID": "a lesion", "TrackingUID": lesion} if lesion else {}
        more = {"PatientID": patient, "AcquisitionDateTime": time} | tracking | values
        self[uri] = dicom(PICTURE.tobytes(), sop_class=sop_class, ContentLabel=uri.upper(), **more)

    def index(self) -> tuple[list[dict[str, object]], Counter[str]]:
        forth, back = index_dicom(list(self), self.__getitem__), index_dicom(list(self)[::-1], self.__getitem__)
        assert forth == back, "the order of the files does not matter"
        for row in forth[0]:
            assert row.keys() <= set(SCHEMA.names)
        assert len({row["pair_id"] for row in forth[0]}) == len(forth[0])
        return forth

    def pairs(self) -> list[tuple[object, object]]:
        return [(row["clinical_uri"], row["dermoscopy_uri"]) for row in self.index()[0]]


def test_images_of_a_lesion_are_paired() -> None:
    files = Files()
    files.add("a", CLINICAL, "P1", "1.1", PatientAge="045Y")
    files.add("b", DERMOSCOPY, "P1", "1.1", PatientSex="M")
    files.add("c", CLINICAL, "P1", "1.2")
    files.add("d", DERMOSCOPY, "P2", "1.1")
    files.add("e", DERMOSCOPY, "P3", None)
    rows, skipped = files.index()
    assert not skipped
    assert set(files.pairs()) == {(None, "d"), (None, "e"), ("a", "b"), ("c", None)}
    (pair,) = (row for row in rows if row["clinical_uri"] == "a")
    assert pair["pair_id"] == pair["lesion_id"] == "P1/1.1"
    assert (pair["patient_id"], pair["age_years"], pair["sex"]) == ("P1", 45.0, "male")


def test_a_tracking_id_counts_within_its_patient_only() -> None:
    files = Files()
    for uri, sop_class, patient in (
        ("a", CLINICAL, "P1"),
        ("b", DERMOSCOPY, "P1"),
        ("c", CLINICAL, ""),
        ("d", DERMOSCOPY, ""),
        ("e", CLINICAL, "Unknown"),
        ("f", DERMOSCOPY, "Unknown"),
    ):
        files.add(uri, sop_class, patient, None, TrackingID="mole 1")
    assert set(files.pairs()) == {(None, "d"), ("a", "b"), ("c", None), ("e", None), (None, "f")}


def test_several_visits_are_paired_in_order_and_nothing_is_lost() -> None:
    files = Files()
    files.add("c2", CLINICAL, "P1", "1.1", "20240202")
    files.add("c1", CLINICAL, "P1", "1.1", "20240101")
    files.add("d1", DERMOSCOPY, "P1", "1.1", "20240102", InstanceNumber=9)
    files.add("d2", DERMOSCOPY, "P1", "1.1", "20240203", InstanceNumber=1)
    assert files.pairs() == [("c1", "d1"), ("c2", "d2")]
    assert [row["pair_id"] for row in files.index()[0]] == ["P1/1.1#1", "P1/1.1#2"]
    files.add("d3", DERMOSCOPY, "P1", "1.1", "20240303")
    assert set(files.pairs()) == {(None, "d1"), (None, "d2"), (None, "d3"), ("c1", None), ("c2", None)}
    assert {row["lesion_id"] for row in files.index()[0]} == {"P1/1.1"}


def test_what_is_left_out_is_counted_by_reason() -> None:
    files = Files()
    files.add("a", CLINICAL, "P1", "1.1")
    files.add("ct", uids.CTImageStorage, "P1", "1.1")
    files.add("sc", SECONDARY, "P1", "1.1")
    files |= {"again": files["a"], "text": b"hello", "cut": files["a"][:200]}
    rows, skipped = files.index()
    assert [row["clinical_uri"] for row in rows] == ["a"]
    assert skipped == {
        "DICOM of an unsupported SOP class or encoding": 1,
        "secondary capture of unknown modality": 1,
        "duplicate DICOM image": 1,
        "not a DICOM file": 1,
        "damaged DICOM file": 1,
    }


def test_an_outage_leaves_no_file_out() -> None:
    def read(uri: str) -> bytes:
        raise ImageError(ImageErrorCode.TIMEOUT, f"{uri}: no answer")

    with pytest.raises(StorageError, match="no answer"):
        index_dicom(["a"], read)
