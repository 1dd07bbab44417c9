"""DICOM files: their headers, and the first frame of photographs and dermoscopy images."""

import io
import logging
import re
import warnings
from dataclasses import dataclass

import pydicom.uid as uids
from PIL import Image
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset

from derm_ray.data.dicom_pixels import first_frame
from derm_ray.data.image_errors import damage_reported, unsupported
from derm_ray.data.normalization import is_missing, normalize
from derm_ray.domain import ImageFlag, Modality
from derm_ray.errors import ImageError, ImageErrorCode

HEAD_BYTES = 4_000_000
"""Pixels have to begin within these bytes; a header is never read further."""
MAX_READS = 20_000
MAX_SEQUENCE_BYTES = 500_000
"""Limits of header parsing: reads (two or three per element), and bytes in top-level sequences of known length, which
are parsed later."""
NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian)
ENCAPSULATED = (uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEG2000Lossless, uids.JPEG2000)
"""Transfer syntaxes that are read. Deflated files are not: pydicom would inflate them whole."""
MODALITIES = {
    "1.2.840.10008.5.1.4.1.1.77.1.7": Modality.DERMOSCOPY,  # Dermoscopic Photography Image Storage
    "1.2.840.10008.5.1.4.1.1.77.1.4": Modality.CLINICAL,  # VL Photographic Image Storage
}
SOP_CLASSES = (
    *MODALITIES,
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture Image Storage
    "1.2.840.10008.5.1.4.1.1.7.4",  # Multi-frame True Color Secondary Capture Image Storage
)
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)

logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def ignore_warnings_of(package: str) -> None:
    """Suppress a library's warnings about damaged files.

    Set for the whole process, since ``warnings.catch_warnings`` is not sound in threads.
    """
    module = re.compile(rf"{package}\.")
    if not any(entry[3] == module for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=module.pattern)


def is_dicom(data: bytes) -> bool:
    """Return whether bytes start like a DICOM file: ``DICM`` after a preamble of 128 bytes."""
    return data[128:132] == b"DICM"


@dataclass(frozen=True)
class DicomHeader:
    """Metadata of a DICOM image; ``None`` where the header has no value, or a word for a missing one.

    Attributes:
        patient_id: (0010,0020).
        tracking_id, tracking_uid: of the lesion, (0062,0020) and (0062,0021) at any sequence level.
        modality: from the SOP class; ``None`` for secondary captures.
        sop_instance_uid: (0008,0018).
        age_years: in years.
        sex: ``male``, ``female`` or ``other``.
        acquired: sorts images of a lesion by time: date and time, then instance number.
    """

    patient_id: str | None
    tracking_id: str | None
    tracking_uid: str | None
    modality: Modality | None
    sop_instance_uid: str | None
    age_years: float | None
    sex: str | None
    acquired: tuple[str, int]


def read_header(data_or_head: bytes) -> DicomHeader:
    """Read the header of a DICOM file.

    Args:
        data_or_head: the file, or at least everything before its pixels.

    Raises:
        ImageError: it is not a DICOM file (``not_an_image``), of an unsupported SOP class or encoding
            (``unsupported``), or damaged (``corrupt``).
    """
    with damage_reported(" DICOM"):
        return _summary(_read(data_or_head)[0])


def decode_dicom(data: bytes) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the first frame of a DICOM file as the standard displays it, mode L or RGB, and its flags.

    Gray values pass through the modality LUT or the rescale, then through the first VOI LUT or else the first window,
    and MONOCHROME1 is inverted (PS3.3 C.11.1, C.11.2 and C.7.6.3.1.2). Without a VOI LUT and a window, the full range
    that the stored bits can express becomes 0..255, whatever part of it the image uses. Colors of more than 8 bits
    keep their upper 8. An element without a value counts as absent. An EXIF orientation inside a frame is ignored.
    The ICC profile is in the image's ``info``; flags are values of :class:`derm_ray.domain.ImageFlag`.

    Raises:
        ImageError: ``not_an_image``, ``too_many_pixels``, ``unsupported`` (named in the message) or ``corrupt``.
    """
    with damage_reported(" DICOM"):
        header, offset = _read(data)
        flags = []
        if int(header.get("NumberOfFrames") or 1) > 1:
            flags.append(ImageFlag.ANIMATED)
        if str(header.get("BurnedInAnnotation", "")).upper() == "YES":
            flags.append(ImageFlag.BURNED_IN_ANNOTATION)
        return first_frame(header, data, offset), tuple(flags)


class _Head(io.BytesIO):
    """A header that can be read in a bounded number of steps."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MAX_READS:
            raise ValueError("too many elements")
        return super().read(size)


def _read(data: bytes) -> tuple[Dataset, int]:
    """Return all elements before the pixels, and where these begin."""
    if not is_dicom(data):
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, "not a DICOM file")
    ignore_warnings_of("pydicom")
    in_sequences = 0

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:
        nonlocal in_sequences
        if length != 0xFFFFFFFF and "SQ" in (vr, dictionary_VR(tag) if dictionary_has_tag(tag) else vr):
            in_sequences += length
        if in_sequences > MAX_SEQUENCE_BYTES:
            raise ValueError(f"sequences of more than {MAX_SEQUENCE_BYTES} bytes")
        return tag in _PIXEL_TAGS

    head = _Head(data[:HEAD_BYTES])
    head.seek(132)
    meta = read_dataset(head, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    syntax = uids.UID(meta.TransferSyntaxUID)
    if syntax not in NATIVE + ENCAPSULATED:
        raise unsupported(f"DICOM transfer syntax {_named(syntax)}")
    header = read_dataset(head, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels)
    sop_class = uids.UID(header.get("SOPClassUID", ""))
    if sop_class not in SOP_CLASSES:
        raise unsupported(f"DICOM of SOP class {_named(sop_class)}", "Give photographs or dermoscopy images only")
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = syntax
    return header, head.tell()


def _named(uid: uids.UID) -> str:
    if not uid:
        return "(none)"
    return uid if uid.name == uid else f"{uid.name} ({uid})"


def _summary(header: Dataset) -> DicomHeader:
    found: dict[str, str] = {}
    for element in header.iterall():
        if element.keyword in ("TrackingID", "TrackingUID") and element.value:
            found.setdefault(element.keyword, str(element.value))
    time = header.get("AcquisitionDateTime") or (
        f"{header.get('AcquisitionDate') or header.get('ContentDate') or ''}"
        f"{header.get('AcquisitionTime') or header.get('ContentTime') or ''}"
    )
    return DicomHeader(
        patient_id=_known(header.get("PatientID")),
        tracking_id=_known(found.get("TrackingID")),
        tracking_uid=_known(found.get("TrackingUID")),
        modality=MODALITIES.get(str(header.SOPClassUID)),
        sop_instance_uid=_known(header.get("SOPInstanceUID")),
        age_years=_age(str(header.get("PatientAge") or "")),
        sex={"M": "male", "F": "female", "O": "other"}.get(str(header.get("PatientSex") or "")),
        acquired=(str(time), int(header.get("InstanceNumber") or 0)),
    )


def _known(value: object) -> str | None:
    """Return an id in its one form, ``None`` for a word that means missing."""
    text = str(value or "")
    return None if is_missing(text) else normalize(text)


def _age(text: str) -> float | None:
    """Return the years of an age string such as 045Y, 006M or 003W."""
    match = re.fullmatch(r"(\d{3})([DWMY])", text)
    if match is None:
        return None
    return round(int(match[1]) / {"D": 365.25, "W": 52.18, "M": 12, "Y": 1}[match[2]], 2)
