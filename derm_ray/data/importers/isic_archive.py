"""Exports of the ISIC Archive (``isic image download``): any collection, in pairs where a lesion has both kinds."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.importers.images import image_uris, text
from derm_ray.data.importers.importer import Importer, ImportResult, read_columns, with_diagnosis
from derm_ray.diagnoses import isic_tree
from derm_ray.domain import LabelSet
from derm_ray.errors import ManifestError

MODALITIES = {
    "dermoscopic": "dermoscopy_uri",
    "clinical: close-up": "clinical_uri",
    "TBP tile: close-up": "clinical_uri",
}
"""``image_type`` -> column; other images, such as overviews, are skipped and counted."""
LEVELS = tuple(f"diagnosis_{level}" for level in range(1, 6))
FITZPATRICK = {"I": "1", "II": "2", "III": "3", "IV": "4", "V": "5", "VI": "6"}
KEPT = ("attribution", "copyright_license", "diagnosis_confirm_type")


def import_isic_archive(source: str, label_set: LabelSet, out_uri: str) -> ImportResult:
    """Read ``metadata.csv`` and the images beside it, as isic-cli writes them.

    The n-th clinical and the n-th dermoscopic image of a lesion, by id, are a pair; what is left over is a row of its
    own. The diagnosis is the deepest level that is given (``diagnosis_1`` to ``diagnosis_5``).

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
    if problems := _contradictions(frame):
        raise ManifestError(uri, problems)
    frame["uri"] = image_uris(source, frame["isic_id"].tolist(), lambda name: name in (".", "images"))
    result = with_diagnosis(pa.Table.from_pandas(_pairs(frame), preserve_index=False), label_set, out_uri)
    if not skipped:
        return result
    kinds = ", ".join(f"{kind} ({count})" for kind, count in skipped.most_common())
    return replace(result, notes=(*result.notes, f"Images of other kinds skipped: {kinds}."))


def _deepest(levels: tuple[Any, ...]) -> str | None:
    """Return the last level that is given, or the last that the tree knows where there is one."""
    given = [value for value in levels if isinstance(value, str)]
    known = [value for value in given if value in isic_tree()]
    return (known or given)[-1] if given else None


def _contradictions(frame: pd.DataFrame) -> list[str]:
    """Return lesions whose images have diagnoses of which none contains the others."""
    problems = []
    for lesion, words in frame[frame["diagnosis"].notna()].groupby("lesion_id")["diagnosis"].unique().items():
        paths = [isic_tree().get(word, (word,)) for word in words]
        longest = max(paths, key=len)
        if any(path != longest[: len(path)] for path in paths):
            problems.append(f"lesion {lesion}: its images have different diagnoses ({', '.join(sorted(words))})")
    return problems


def _pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per pair or single image."""
    frame = frame.assign(number=frame.groupby(["lesion_id", "column"]).cumcount())
    depth = frame["diagnosis"].map(lambda word: len(isic_tree().get(word, ())) if word else -1)
    best = frame.assign(depth=depth).sort_values("depth").groupby("lesion_id")["diagnosis"].last()
    keys = ["lesion_id", "number"]
    uris = frame.pivot(index=keys, columns="column", values="uri")
    first = frame.groupby(keys, sort=True).first()
    rows = first.groupby("lesion_id").cumcount().rename("row")
    several = first.groupby("lesion_id")["isic_id"].transform("size") > 1
    lesions = first.index.get_level_values("lesion_id")
    tones = first["fitzpatrick_skin_type"].map(FITZPATRICK)
    named = pd.Series(lesions, first.index)
    return pd.DataFrame(
        {
            "pair_id": named.where(~several, named + "_" + (rows + 1).astype(str)),
            "lesion_id": lesions,
            "patient_id": first["patient_id"],
            "clinical_uri": uris.get("clinical_uri"),
            "dermoscopy_uri": uris.get("dermoscopy_uri"),
            "diagnosis": best.reindex(lesions).to_numpy(),
            "age": first["age_approx"],
            "sex": first["sex"],
            "site": first["anatom_site_general"],
            "skin_tone": tones,
            "skin_tone_scale": tones.notna().map({True: "fitzpatrick", False: None}),
            **{column: first[column] for column in KEPT if column in first},
            "source": "isic_archive",
        }
    )


ISIC_ARCHIVE = Importer(
    import_isic_archive,
    "Import an export of the ISIC Archive (isic-cli), in pairs where a lesion has both kinds of images.",
    "Folder with metadata.csv and the images.",
    "milk10k",
)
