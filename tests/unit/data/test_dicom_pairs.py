"""DICOM headers, and pairs of images by them."""

import warnings
from collections import Counter

import numpy as np
import pydicom.uid as uids
import pytest
from pydicom.dataset import Dataset

from derm_ray.data.archives.dicom_pairs import index_dicom
from derm_ray.data.dicom import read_header
from derm_ray.data.manifest import SCHEMA
from derm_ray.domain import Modality
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

from .dicom_files import CLINICAL, DERMOSCOPY, PICTURE, SECONDARY, dicom, shown


def test_a_header_tells_patient_lesion_and_kind() -> None:
    item = Dataset()
    item.TrackingID, item.TrackingUID = "left arm 1", "1.2.3.4"
    values = {"PatientID": "P7", "PatientAge": "018M", "PatientSex": "F", "BurnedInAnnotation": "YES"}
    data = dicom(PICTURE.tobytes(), AcquisitionDateTime="20240102", ReferencedImageSequence=[item], **values)
    for part in (data, data[: -PICTURE.nbytes]):
        header = read_header(part)
        assert (header.patient_id, header.tracking_id, header.tracking_uid) == ("P7", "left arm 1", "1.2.3.4")
        assert header.modality is Modality.DERMOSCOPY
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
    assert (pair["patient_id"], pair["age"], pair["sex"]) == ("P1", 45.0, "male")


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
