"""MILK10k (doi:10.34970/648456) in its official layout."""

import pandas as pd
import pyarrow as pa

from derm_ray import storage
from derm_ray.data.importers.importer import RIGHTS, Importer, ImportResult, one_hot, read_columns, with_diagnosis
from derm_ray.domain import MILK10K, LabelSet
from derm_ray.errors import ManifestError

PREFIX = "MILK10k_Training"
MODALITIES = {"clinical: close-up": "clinical_uri", "dermoscopic": "dermoscopy_uri"}


def import_milk10k(source: str, label_set: LabelSet, out_uri: str) -> ImportResult:
    """Read the official folder (``MILK10k_Training_{Metadata,Supplement,GroundTruth}.csv`` and ``_Input/``).

    Diagnoses are the 11 classes of the ground truth for ``milk10k`` and its tasks, otherwise ``diagnosis_full``.

    Raises:
        StorageError: a file is missing.
        ManifestError: a file lacks a column, or a lesion has more or other images than one of each modality.
    """
    columns = ("lesion_id", "image_type", "isic_id", "age_approx", "sex", "skin_tone_class", "site")
    images = _table(source, "Metadata", columns, ids=("lesion_id", "isic_id"))
    supplement = _table(source, "Supplement", ("isic_id", "diagnosis_full"), ids=("isic_id",))
    images = images.merge(supplement[["isic_id", "diagnosis_full"]], on="isic_id", how="left")
    images["modality"] = images["image_type"].map(MODALITIES)
    _check_images(images, source)
    folder = storage.join(storage.absolute(source), f"{PREFIX}_Input")
    images["uri"] = folder + "/" + images["lesion_id"] + "/" + images["isic_id"] + ".jpg"

    lesions = images.groupby("lesion_id", sort=True).first()
    uris = images.pivot(index="lesion_id", columns="modality", values="uri")
    words = lesions["diagnosis_full"]
    if label_set is MILK10K or set(label_set.collapses) == set(MILK10K.class_names):
        words = _ground_truth(source).reindex(lesions.index)
    frame = pd.DataFrame(
        {
            "pair_id": lesions.index,
            "lesion_id": lesions.index,
            "clinical_uri": uris["clinical_uri"],
            "dermoscopy_uri": uris["dermoscopy_uri"],
            "diagnosis": words,
            "age": lesions["age_approx"],
            "sex": lesions["sex"],
            "site": lesions["site"],
            "skin_tone": lesions["skin_tone_class"],
            "skin_tone_scale": lesions["skin_tone_class"].notna().map({True: "milk", False: None}),
            "diagnosis_full": lesions["diagnosis_full"],
            **{column: lesions[column] for column in RIGHTS if column in lesions},
            **_monet(images, source),
        }
    )
    return with_diagnosis(pa.Table.from_pandas(frame, preserve_index=False), label_set, out_uri)


def _monet(images: pd.DataFrame, source: str) -> dict[str, pd.Series]:
    """Return the MONET scores (0..1, Kim et al. 2024) of both images by column, such as ``monet_hair_dermoscopy``."""
    try:
        return {
            f"{column.lower()}_{str(uri).removesuffix('_uri')}": of.set_index("lesion_id")[column].astype(float)
            for column in images.columns
            if column.startswith("MONET_")
            for uri, of in images.groupby("modality")
        }
    except ValueError as error:
        raise ManifestError(storage.join(source, f"{PREFIX}_Metadata.csv"), [f"a MONET score: {error}"]) from error


def _table(source: str, name: str, columns: tuple[str, ...], ids: tuple[str, ...]) -> pd.DataFrame:
    return read_columns(storage.join(source, f"{PREFIX}_{name}.csv"), columns, ids)


def _check_images(images: pd.DataFrame, source: str) -> None:
    problems = [f"unknown image type {kind!r}" for kind in images.loc[images["modality"].isna(), "image_type"]]
    counts = images.groupby(["lesion_id", "modality"]).size().unstack(fill_value=0)
    for column in MODALITIES.values():
        wrong = counts[counts[column] != 1] if column in counts else counts
        problems += [
            f"lesion {lesion}: expected exactly one {column.removesuffix('_uri')} image" for lesion in wrong.index
        ]
    if problems:
        raise ManifestError(storage.join(source, f"{PREFIX}_Metadata.csv"), problems)


def _ground_truth(source: str) -> pd.Series:
    frame = _table(source, "GroundTruth", ("lesion_id",), ids=("lesion_id",))
    return one_hot(frame, "lesion_id", storage.join(source, f"{PREFIX}_GroundTruth.csv")).str.lower()


MILK10K_FOLDER = Importer(
    import_milk10k,
    "Import MILK10k (doi:10.34970/648456) in its official layout.",
    "Folder with the MILK10k_Training_* files.",
    "paper15",
)
