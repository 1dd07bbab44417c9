"""Lesion pairs from DICOM headers."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import zip_longest

from derm_ray.data.archives.retry import OUTAGES
from derm_ray.data.dicom import DicomHeader, read_header
from derm_ray.domain import Modality
from derm_ray.errors import ImageError, ImageErrorCode, StorageError

_Image = tuple[DicomHeader, str]
_REASONS = {
    ImageErrorCode.NOT_AN_IMAGE: "not a DICOM file",
    ImageErrorCode.UNSUPPORTED: "DICOM of an unsupported SOP class or encoding",
    ImageErrorCode.CORRUPT: "damaged DICOM file",
}


def index_dicom(uris: Sequence[str], read: Callable[[str], bytes]) -> tuple[list[dict[str, object]], Counter[str]]:
    """Pair DICOM images by patient and lesion.

    A lesion is identified by the patient's tracking UID, or by patient and tracking id if there is no UID. If a lesion
    has equally many clinical and dermoscopy images, they are paired in order of acquisition. Otherwise, and for images
    without a lesion, every image becomes a row of its own, so that no image is lost.

    Args:
        uris: of files; their order does not matter.
        read: returns a file, or at least everything before its pixels.

    Returns:
        Rows with columns of :data:`derm_ray.data.manifest.SCHEMA`, sorted by ``pair_id``, and the number of skipped
        files by reason.

    Raises:
        StorageError: storage does not respond; other unusable files are skipped.
    """
    skipped: Counter[str] = Counter()
    images: list[_Image] = []
    for uri in uris:
        try:
            images.append((read_header(read(uri)), uri))
        except ImageError as error:
            if error.code in OUTAGES:
                raise StorageError(error.message) from error
            skipped[_REASONS.get(error.code, f"file that cannot be read ({error.code})")] += 1
    lesions: dict[tuple[str, ...], list[_Image]] = defaultdict(list)
    seen: set[str] = set()
    for header, uri in sorted(images, key=lambda image: image[1]):
        instance = header.sop_instance_uid or uri
        if header.modality is None:
            skipped["secondary capture of unknown modality"] += 1
        elif instance in seen:
            skipped["duplicate DICOM image"] += 1
        else:
            seen.add(instance)
            lesions[_lesion(header, instance)].append((header, uri))
    rows = [row for key, images in lesions.items() for row in _rows(_joined(key), images)]
    return sorted(rows, key=lambda row: str(row["pair_id"])), skipped


def _lesion(header: DicomHeader, instance: str) -> tuple[str, ...]:
    """Return the key that identifies a lesion."""
    if header.tracking_uid:
        return (*([header.patient_id] if header.patient_id else []), header.tracking_uid)
    if header.tracking_id and header.patient_id:
        return header.patient_id, header.tracking_id
    return (instance,)


def _joined(key: tuple[str, ...]) -> str:
    """Return a lesion's key as one text that no other key has."""
    return "/".join(part.replace("%", "%25").replace("/", "%2F").replace("#", "%23") for part in key)


def _rows(lesion_id: str, images: list[_Image]) -> list[dict[str, object]]:
    ordered = sorted(images, key=lambda image: (image[0].acquired, image[1]))
    clinical, dermoscopy = (
        [image for image in ordered if image[0].modality is modality]
        for modality in (Modality.CLINICAL, Modality.DERMOSCOPY)
    )
    pairs: list[tuple[_Image | None, _Image | None]]
    if len(clinical) == len(dermoscopy):
        pairs = list(zip(clinical, dermoscopy, strict=True))
    else:
        pairs = [*zip_longest(clinical, (), fillvalue=None), *zip_longest((), dermoscopy, fillvalue=None)]
    return [
        _row(lesion_id, lesion_id if len(pairs) == 1 else f"{lesion_id}#{number}", *pair)
        for number, pair in enumerate(pairs, 1)
    ]


def _row(lesion_id: str, pair_id: str, clinical: _Image | None, dermoscopy: _Image | None) -> dict[str, object]:
    headers = [image[0] for image in (clinical, dermoscopy) if image is not None]
    return {
        "pair_id": pair_id,
        "lesion_id": lesion_id,
        "patient_id": headers[0].patient_id,
        "clinical_uri": clinical[1] if clinical else None,
        "dermoscopy_uri": dermoscopy[1] if dermoscopy else None,
        "age": next((header.age_years for header in headers if header.age_years is not None), None),
        "sex": next((header.sex for header in headers if header.sex is not None), None),
    }
