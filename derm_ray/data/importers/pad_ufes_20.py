"""PAD-UFES-20 (doi:10.17632/zr7vgbcyr2.1): smartphone photos alone, several of a lesion."""

import pandas as pd

from derm_ray import storage
from derm_ray.data.importers.images import image_uris, text
from derm_ray.data.importers.importer import CONFLICTS, Importer, ImportResult, read_columns, with_images
from derm_ray.domain import LabelSet
from derm_ray.errors import ManifestError

DIAGNOSES = {
    "BCC": "basal_cell_carcinoma",
    "SCC": "squamous_cell_carcinoma_or_bowens",
    "ACK": "actinic_keratosis",
    "SEK": "seborrheic_keratosis",
    "MEL": "melanoma",
    "NEV": "naevus",
}
"""``diagnostic`` -> diagnosis (Pacheco et al. 2020, section 2: Bowen's disease is counted as SCC)."""

YES_NO = ("itch", "grew", "hurt", "changed", "bleed", "elevation")
"""Answers of the patient, as columns of numbers: 1, 0 or missing."""
NUMBERS = ("diameter_1", "diameter_2")
"""Diameters of the lesion in mm."""


def import_pad_ufes_20(source: str, label_set: LabelSet, out_uri: str, *, conflicts: str | None = None) -> ImportResult:
    """Read ``metadata.csv`` and the folders ``imgs_part_1`` to ``_3``, or ``images``.

    One row per lesion, with all its images.

    Raises:
        StorageError: a file cannot be read.
        ManifestError: a file or a column is missing, images are, or an answer is not understood.
    """
    uri = storage.join(source, "metadata.csv")
    columns = ("patient_id", "lesion_id", "img_id", "diagnostic", "age", "gender", "region", "fitspatrick")
    frame = read_columns(uri, (*columns, *YES_NO, *NUMBERS), ids=("img_id", "lesion_id"))
    uris = image_uris(source, frame["img_id"].tolist(), lambda name: name.startswith("imgs_part") or name == "images")
    words = text(frame["diagnostic"])
    tones = text(frame["fitspatrick"])
    images = pd.DataFrame(
        {
            "lesion_id": frame["lesion_id"],
            "patient_id": frame["patient_id"],
            "clinical_uri": uris,
            "diagnosis": words.str.upper().map(DIAGNOSES).fillna(words),
            "age": frame["age"],
            "sex": frame["gender"],
            "site": frame["region"],
            "skin_tone": tones,
            "skin_tone_scale": tones.map(lambda tone: None if tone is None else "fitzpatrick"),
            **{name: _answers(frame[name], uri) for name in YES_NO},
            **{name: _numbers(frame[name], uri) for name in NUMBERS},
            "word": words,
            "source": "pad_ufes_20",
        }
    )
    return with_images(images, uri, label_set, out_uri, conflicts)


def _answers(column: pd.Series, uri: str) -> pd.Series:
    known = {"true": 1.0, "false": 0.0, "unk": None, None: None}
    words = text(column).map(lambda value: value if value is None else value.lower())
    if unknown := sorted(set(words) - set(known)):
        raise ManifestError(uri, [f"column {column.name!r}: {unknown[0]!r} is not True, False or UNK"])
    return words.map(known).astype(float)


def _numbers(column: pd.Series, uri: str) -> pd.Series:
    try:
        return text(column).astype(float)
    except ValueError as error:
        raise ManifestError(uri, [f"column {column.name!r}: {error}"]) from error


PAD_UFES_20 = Importer(
    import_pad_ufes_20,
    "Import PAD-UFES-20 (doi:10.17632/zr7vgbcyr2.1): clinical photos alone.",
    "Folder with metadata.csv and imgs_part_1 to imgs_part_3.",
    "milk10k",
    {"conflicts": CONFLICTS},
)
