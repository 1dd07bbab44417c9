"""Hostile and broken images end in their code, quickly, silently and in bounded memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import pydicom.uid as uids
import pytest
from pydicom.encaps import encapsulate

from derm_ray.data.dicom import read_header
from derm_ray.domain import Modality
from derm_ray.errors import ImageError

from . import hostile_files
from .hostile_files import BROKEN, IMAGES, KINDS, dicom, encoded, outcome

SECONDS = 1.0


@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_image_ends_in_its_code_quickly_and_silently(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, expected = IMAGES[name]
    started = time.process_time()
    result = outcome(data)
    assert time.process_time() - started < SECONDS
    assert result in expected
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", [name for name in IMAGES if name.startswith("dicom")])
def test_the_header_of_a_bad_dicom_file_is_read_or_refused_quickly(name: str) -> None:
    started = time.process_time()
    with suppress(ImageError):
        assert read_header(IMAGES[name][0]).modality is Modality.DERMOSCOPY
    assert time.process_time() - started < SECONDS


def truncatable() -> dict[str, bytes]:
    whole: dict[str, Callable[[], bytes]] = {kind: (lambda kind=kind: encoded(kind)) for kind in KINDS}
    whole |= {
        "progressive JPEG": lambda: encoded("JPEG", progressive=True),
        "LZW TIFF": lambda: encoded("TIFF", compression="tiff_lzw"),
        "JPEG TIFF": lambda: encoded("TIFF", compression="jpeg"),
        "lossless WEBP": lambda: encoded("WEBP", lossless=True),
        "raw JPEG2000": lambda: encoded("JPEG2000", no_jp2=True),
        "DICOM": dicom,
        "DICOM JPEG": lambda: dicom(
            uids.JPEGBaseline8Bit, Rows=96, Columns=128, PixelData=encapsulate([encoded("JPEG")])
        ),
        "DICOM JPEG 2000": lambda: dicom(
            uids.JPEG2000, Rows=96, Columns=128, PixelData=encapsulate([encoded("JPEG2000", no_jp2=True)])
        ),
    }
    return {kind: make() for kind, make in whole.items()}


TRUNCATABLE = truncatable()


@pytest.mark.parametrize("tenths", range(10))
@pytest.mark.parametrize("kind", TRUNCATABLE)
def test_a_truncated_image_is_an_error(kind: str, tenths: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = TRUNCATABLE[kind]
    assert outcome(data) == "picture"
    started = time.process_time()
    result = outcome(data[: len(data) * tenths // 10])
    assert time.process_time() - started < SECONDS
    assert result == "empty" if tenths == 0 else result in BROKEN | {"not_an_image"}
    assert capfd.readouterr() == ("", "")


def test_bad_images_need_no_more_memory_than_good_ones_at_the_cap() -> None:
    """Peak memory of a process that decodes every bad image, against decoding one phone photo of 50 megapixels."""
    run = subprocess.run([sys.executable, str(hostile_files.__file__)], capture_output=True, text=True, check=True)
    good, bad = json.loads(run.stdout)
    assert run.stderr == ""
    assert bad <= 1.2 * good
