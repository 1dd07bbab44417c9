"""Exports of the ISIC Archive (``isic image download``): any collection, with all images of a lesion in one row."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pandas as pd

from derm_ray import storage
from derm_ray.data.importers.images import image_uris, text
from derm_ray.data.importers.importer import CONFLICTS, RIGHTS, Importer, ImportResult, read_columns, with_images
from derm_ray.diagnoses import isic_tree
from derm_ray.domain import LabelSet

MODALITIES = {
    "dermoscopic": "dermoscopy_uri",
    "clinical: close-up": "clinical_uri",
    "TBP tile: close-up": "clinical_uri",
}
"""``image_type`` -> column; other images, such as overviews, are skipped and counted."""
LEVELS = tuple(f"diagnosis_{level}" for level in range(1, 6))
FITZPATRICK = {"I": "1", "II": "2", "III": "3", "IV": "4", "V": "5", "VI": "6"}
KEPT = (*RIGHTS, "diagnosis_confirm_type")


def import_isic_archive(
    source: str, label_set: LabelSet, out_uri: str, *, conflicts: str | None = None
) -> ImportResult:
    """Read ``metadata.csv`` and the images beside it, as isic-cli writes them.

    One row per lesion, with all its images. The diagnosis is the deepest level that is given (``diagnosis_1`` to
    ``diagnosis_5``).

    Raises:
        StorageError: a file cannot be read.
        ManifestError: a file or a column is missing, images are, or the images of a lesion have diagnoses that exclude
            each other.
    """
    uri = storage.join(source, "metadata.csv")
    frame = read_columns(uri, ("isic_id", "image_type", "diagnosis_1"), ids=("isic_id",))
    for column in ("lesion_id", "patient_id", "age_approx", "sex", "anatom_site_general", "fitzpatrick_skin_type"):
        frame[column] = text(frame[column]) if column in frame else None
    frame["lesion_id"] = frame["lesion_id"].fillna(frame["isic_id"])
    frame["diagnosis"] = [_deepest(row) for row in frame[[c for c in LEVELS if c in frame]].itertuples(index=False)]
    frame["column"] = frame["image_type"].map(MODALITIES)
    skipped = Counter(frame.loc[frame["column"].isna(), "image_type"].fillna("no image_type"))
    frame = frame[frame["column"].notna()].sort_values("isic_id", ignore_index=True)
    uris = image_uris(source, frame["isic_id"].tolist(), lambda name: name in (".", "images"))
    images = pd.Series(uris, dtype=object)
    tones = frame["fitzpatrick_skin_type"].map(FITZPATRICK)
    table = pd.DataFrame(
        {
            "lesion_id": frame["lesion_id"],
            "patient_id": frame["patient_id"],
            **{column: images.where(frame["column"] == column) for column in sorted(set(frame["column"]))},
            "diagnosis": frame["diagnosis"],
            "age": frame["age_approx"],
            "sex": frame["sex"],
            "site": frame["anatom_site_general"],
            "skin_tone": tones,
            "skin_tone_scale": tones.notna().map({True: "fitzpatrick", False: None}),
            **{column: frame[column] for column in KEPT if column in frame},
            "word": frame["diagnosis"],
            "source": "isic_archive",
        }
    )
    result = with_images(table, uri, label_set, out_uri, conflicts)
    if not skipped:
        return result
    kinds = ", ".join(f"{kind} ({count})" for kind, count in skipped.most_common())
    return replace(result, notes=(*result.notes, f"Images of other kinds skipped: {kinds}."))


def _deepest(levels: tuple[Any, ...]) -> str | None:
    """Return the last level that is given, or the last that the tree knows where there is one."""
    given = [value for value in levels if isinstance(value, str)]
    known = [value for value in given if value in isic_tree()]
    return (known or given)[-1] if given else None


ISIC_ARCHIVE = Importer(
    import_isic_archive,
    "Import an export of the ISIC Archive (isic-cli).",
    "Folder with metadata.csv and the images.",
    "milk10k",
    {"conflicts": CONFLICTS},
)
