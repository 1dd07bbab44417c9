"""The training set of the ISIC 2019 challenge: dermoscopy alone."""

import pandas as pd

from derm_ray import storage
from derm_ray.data.importers.images import image_uris, text
from derm_ray.data.importers.importer import CONFLICTS, Importer, ImportResult, one_hot, read_columns, with_images
from derm_ray.domain import LabelSet
from derm_ray.errors import ManifestError

PREFIX = "ISIC_2019_Training"
DIAGNOSES = {
    "MEL": "melanoma",
    "NV": "naevus",
    "BCC": "basal_cell_carcinoma",
    "AK": "actinic_keratosis",
    "BKL": "benign_keratosis",
    "DF": "dermatofibroma",
    "VASC": "vascular_lesion",
    # Bowen's disease of HAM10000 is in one of the classes; this one is read as both, so that it is never wrong.
    "SCC": "squamous_cell_carcinoma_or_bowens",
}
"""Column of the ground truth -> diagnosis; ``UNK`` is none."""


def import_isic2019(source: str, label_set: LabelSet, out_uri: str, *, conflicts: str | None = None) -> ImportResult:
    """Read ``ISIC_2019_Training_{GroundTruth,Metadata}.csv`` and ``ISIC_2019_Training_Input/``.

    One row per lesion, with all its images.

    Raises:
        StorageError: a file cannot be read.
        ManifestError: a column is missing, images are, or a row has not exactly one class.
    """
    uri = storage.join(source, f"{PREFIX}_GroundTruth.csv")
    truth = one_hot(read_columns(uri, ("image",), ids=("image",)), "image", uri)
    columns = ("image", "lesion_id", "age_approx", "sex", "anatom_site_general")
    frame = read_columns(storage.join(source, f"{PREFIX}_Metadata.csv"), columns, ids=("image",))
    if lacking := sorted(set(frame["image"]) - set(truth.index)):
        raise ManifestError(uri, [f"image {name} is in the metadata only" for name in lacking])
    uris = image_uris(source, frame["image"].tolist(), lambda name: name.startswith(f"{PREFIX}_Input".lower()))
    words = truth.reindex(frame["image"]).reset_index(drop=True)
    images = pd.DataFrame(
        {
            "lesion_id": text(frame["lesion_id"]).fillna(frame["image"]),
            "dermoscopy_uri": uris,
            "diagnosis": words.map(DIAGNOSES).fillna(words),
            "age": frame["age_approx"],
            "sex": frame["sex"],
            "site": frame["anatom_site_general"],
            "word": words,
            "source": "isic2019",
        }
    )
    return with_images(images, uri, label_set, out_uri, conflicts)


ISIC2019 = Importer(
    import_isic2019,
    "Import the training set of the ISIC 2019 challenge: dermoscopy alone.",
    "Folder with the ISIC_2019_Training_* files.",
    "milk10k",
    {"conflicts": CONFLICTS},
)
