"""The 7-point checklist data set, derm7pt (doi:10.1109/JBHI.2018.2824327), in its official layout."""

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.importers.images import text
from derm_ray.data.importers.importer import Importer, ImportResult, read_columns, with_diagnosis
from derm_ray.domain import LabelSet, Split
from derm_ray.errors import ManifestError

SPLITS = {Split.TRAIN: "train", Split.VAL: "valid", Split.TEST: "test"}

DIAGNOSES = {
    "basal cell carcinoma": "basal_cell_carcinoma",
    "blue nevus": "blue_naevus",
    "clark nevus": "clark_naevus",
    "combined nevus": "combined_naevus",
    "congenital nevus": "congenital_naevus",
    "dermal nevus": "dermal_naevus",
    "dermatofibroma": "dermatofibroma",
    "lentigo": "lentigo",
    "melanoma": "melanoma",
    "melanoma (in situ)": "melanoma",
    "melanoma (less than 0.76 mm)": "melanoma",
    "melanoma (0.76 to 1.5 mm)": "melanoma",
    "melanoma (more than 1.5 mm)": "melanoma",
    "melanoma metastasis": "melanoma",
    "melanosis": "melanosis",
    "miscellaneous": "miscellaneous",
    "recurrent nevus": "recurrent_naevus",
    "reed or spitz nevus": "reed_or_spitz_naevus",
    "seborrheic keratosis": "seborrheic_keratosis",
    "vascular lesion": "vascular_lesion",
}
"""``diagnosis`` of ``meta.csv`` -> class of ``derm7pt``."""


def import_derm7pt(source: str, label_set: LabelSet, out_uri: str) -> ImportResult:
    """Read the official folder: ``meta/meta.csv``, ``meta/{train,valid,test}_indexes.csv`` and ``images/``.

    The data set's own splits are kept.

    Raises:
        StorageError: a file is missing.
        ManifestError: a file lacks a column, or an index is outside the table or in two splits.
    """
    columns = ("case_num", "diagnosis", "location", "sex", "clinic", "derm")
    frame = read_columns(storage.join(source, "meta/meta.csv"), columns, ids=("case_num",))
    named = frame["diagnosis"].str.strip().str.lower().map(DIAGNOSES)
    images = storage.join(storage.absolute(source), "images") + "/"
    manifest = pd.DataFrame(
        {
            "pair_id": frame["case_num"],
            "lesion_id": frame["case_num"],
            "clinical_uri": images + frame["clinic"],
            "dermoscopy_uri": images + frame["derm"],
            "diagnosis": named,
            "split": _splits(source, len(frame)),
            "sex": frame["sex"],
            "site": frame["location"],
            "diagnosis_full": frame["diagnosis"],
        }
    )
    words = text(frame["diagnosis"]).tolist()
    return with_diagnosis(pa.Table.from_pandas(manifest, preserve_index=False), label_set, out_uri, words=words)


def _splits(source: str, rows: int) -> list[str | None]:
    splits: list[str | None] = [None] * rows
    for split, name in SPLITS.items():
        uri = storage.join(source, f"meta/{name}_indexes.csv")
        try:
            indexes = read_columns(uri, ("indexes",))["indexes"].astype(int).tolist()
        except ValueError as error:
            raise ManifestError(uri, [f"column 'indexes': {error}"]) from error
        problems = [f"index {i} is outside the {rows} rows of meta.csv" for i in indexes if not 0 <= i < rows]
        problems += [f"index {i} is also in {splits[i]}" for i in indexes if 0 <= i < rows and splits[i]]
        if problems:
            raise ManifestError(uri, problems)
        for index in indexes:
            splits[index] = str(split)
    return splits


DERM7PT_FOLDER = Importer(
    import_derm7pt,
    "Import the 7-point checklist data set (doi:10.1109/JBHI.2018.2824327) with its own splits.",
    "Folder with meta/ and images/.",
    "derm7pt",
)
