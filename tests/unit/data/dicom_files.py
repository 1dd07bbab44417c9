"""DICOM files made for tests."""

import io

import numpy as np
import pydicom.uid as uids
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset

from derm_ray.data.decode import decode
from derm_ray.data.dicom import is_dicom
from derm_ray.errors import ImageError

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
