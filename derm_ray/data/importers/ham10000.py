"""HAM10000 (doi:10.7910/DVN/DBW86T): dermoscopy alone, several images of a lesion."""

import pandas as pd

from derm_ray.data.importers.images import image_uris, only_file, text
from derm_ray.data.importers.importer import CONFLICTS, Importer, ImportResult, read_columns, with_images
from derm_ray.domain import LabelSet

DIAGNOSES = {
    "akiec": "akiec",
    "bcc": "basal_cell_carcinoma",
    "bkl": "benign_keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "naevus",
    "vasc": "vascular_lesion",
}
"""``dx`` -> diagnosis (Tschandl et al. 2018, table 2)."""


def import_ham10000(source: str, label_set: LabelSet, out_uri: str, *, conflicts: str | None = None) -> ImportResult:
    """Read ``HAM10000_metadata`` (also ``.csv`` or ``.tab``) and the folders ``HAM10000_images_part_1`` and ``_2``.

    One row per lesion, with all its images.

    Raises:
        StorageError: a file cannot be read.
        ManifestError: a file or a column is missing, or images are.
    """
    uri = only_file(source, ("HAM10000_metadata", "HAM10000_metadata.csv", "HAM10000_metadata.tab"))
    columns = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
    frame = read_columns(uri, columns, ids=("image_id",))
    uris = image_uris(source, frame["image_id"].tolist(), lambda name: "images" in name)
    words = text(frame["dx"])
    images = pd.DataFrame(
        {
            "lesion_id": text(frame["lesion_id"]).fillna(frame["image_id"]),
            "dermoscopy_uri": uris,
            "diagnosis": words.str.lower().map(DIAGNOSES).fillna(words),
            "age": frame["age"],
            "sex": frame["sex"],
            "site": frame["localization"],
            "diagnosis_confirmed_by": frame["dx_type"],
            "word": words,
            "source": frame.get("dataset", "ham10000"),
        }
    )
    return with_images(images, uri, label_set, out_uri, conflicts)


HAM10000 = Importer(
    import_ham10000,
    "Import HAM10000 (doi:10.7910/DVN/DBW86T): dermoscopy alone.",
    "Folder with HAM10000_metadata and HAM10000_images_part_1 and _2.",
    "milk10k",
    {"conflicts": CONFLICTS},
)
