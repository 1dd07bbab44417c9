"""Look-alikes of public data sets, in their layouts: own values, small files in place of images."""

import random
from collections import Counter
from pathlib import Path

import pytest

from derm_ray.data.importers.ham10000 import DIAGNOSES as HAM
from derm_ray.data.importers.ham10000 import import_ham10000
from derm_ray.data.importers.isic2019 import import_isic2019
from derm_ray.data.importers.isic_archive import import_isic_archive
from derm_ray.data.importers.pad_ufes_20 import DIAGNOSES as PAD
from derm_ray.data.importers.pad_ufes_20 import import_pad_ufes_20
from derm_ray.data.splits import split_manifest
from derm_ray.data.validation import validate
from derm_ray.domain import MILK10K, PAPER15, Modality
from derm_ray.errors import ConfigError, ManifestError


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"image")


@pytest.fixture
def ham10000(tmp_path: Path) -> Path:
    """60 images of 40 lesions, in two folders; some suffixes are upper-case."""
    draw = random.Random(0)
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number in range(60):
        lesion = number if number < 40 else draw.randrange(38)
        dx = list(HAM)[lesion % 7]
        name = f"ISIC_{number:07d}"
        sex = ("male", "female", "unknown")[lesion % 3]
        lesion_id = {38: "NA", 39: ""}.get(lesion, f"HAM_{lesion:07d}")
        lines.append(f"{lesion_id},{name},{dx},histo,{45.0 if lesion % 5 else ''},{sex},back")
        image(tmp_path / f"HAM10000_images_part_{1 + number % 2}" / f"{name}.{'JPG' if number % 9 == 0 else 'jpg'}")
    (tmp_path / "HAM10000_metadata").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_ham10000_has_the_images_of_a_lesion_in_one_row(ham10000: Path) -> None:
    result = import_ham10000(str(ham10000), MILK10K, str(ham10000 / "m.parquet"))
    manifest = result.manifest
    validate(manifest, MILK10K)
    assert (len(manifest), result.found, result.outside, result.unknown) == (40, 40, {}, {})
    assert sum(len(pair.uris(Modality.DERMOSCOPY)) for pair in manifest.pairs()) == 60
    assert len(set(manifest.column("lesion_id"))) == 40
    assert {"ISIC_0000038", "ISIC_0000039"} < set(manifest.column("lesion_id")), "without an id: a lesion of its own"
    assert set(manifest.column("diagnosis")) == {"akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"}
    assert set(manifest.column("sex")) == {"male", "female", None}
    assert set(manifest.table["age"].to_pylist()) == {45.0, None}
    assert manifest.column("clinical_uri") == [None] * 40
    assert str(manifest.pairs()[0].uri(Modality.DERMOSCOPY)).endswith("part_1/ISIC_0000000.JPG")
    validate(split_manifest(manifest).manifest, MILK10K)


def test_ham10000s_labels_are_coarse_for_the_papers_diseases(ham10000: Path) -> None:
    result = import_ham10000(str(ham10000), PAPER15, str(ham10000 / "m.parquet"))
    counts = Counter(result.manifest.column("diagnosis"))
    assert set(counts) == {
        "akiec", "basal_cell_carcinoma", "benign_keratosis", "dermatofibroma", "melanoma", "naevus", "vascular_lesion"
    }  # fmt: skip
    coarse = {name: counts[name] for name in ("akiec", "benign_keratosis", "naevus", "vascular_lesion")}
    assert all(f"{name} ({count})" in result.notes[0] for name, count in coarse.items())


def test_ham10000_with_tabs_and_a_copied_folder(ham10000: Path) -> None:
    """The Dataverse file has tabs; a known copy holds each folder twice, in two cases."""
    text = (ham10000 / "HAM10000_metadata").read_text()
    (ham10000 / "HAM10000_metadata").unlink()
    (ham10000 / "HAM10000_metadata.tab").write_bytes(b"\xef\xbb\xbf" + text.replace(",", "\t").encode())
    image(ham10000 / "ham10000_images_part_1" / "ISIC_0000000.jpg")
    result = import_ham10000(str(ham10000), MILK10K, str(ham10000 / "m.parquet"))
    assert len(result.manifest) == 40
    assert "/HAM10000_images_part_1/" in str(result.manifest.column("dermoscopy_uri")[0])


def test_a_part_that_was_not_downloaded_is_one_message(ham10000: Path) -> None:
    for path in (ham10000 / "HAM10000_images_part_2").iterdir():
        path.unlink()
    with pytest.raises(ManifestError) as caught:
        import_ham10000(str(ham10000), MILK10K, "m.parquet")
    assert caught.value.problems == (
        "30 of 60 images not found, such as ISIC_0000001, ISIC_0000003, ISIC_0000005 .... They were "
        "looked for in HAM10000_images_part_1, HAM10000_images_part_2 (30 images). The folder contains "
        "HAM10000_images_part_1/, HAM10000_images_part_2/, HAM10000_metadata.",
    )
    (ham10000 / "HAM10000_metadata").rename(ham10000 / "metadata.csv")
    with pytest.raises(ManifestError, match=r"no HAM10000_metadata or .* contains .*, metadata"):
        import_ham10000(str(ham10000), MILK10K, "m.parquet")


PAD_COLUMNS = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,skin_cancer_history,"
    "cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,diagnostic,itch,grew,hurt,"
    "changed,bleed,elevation,img_id,biopsed"
)


@pytest.fixture
def pad_ufes_20(tmp_path: Path) -> Path:
    """36 photos of 18 lesions of 9 patients; what is not asked is empty."""
    lines = [PAD_COLUMNS]
    for number in range(36):
        lesion = number // 2
        asked = lesion % 2 == 0
        name = f"PAT_{lesion // 2}_{lesion}_{number}.png"
        history = "False,True,BRAZIL,BRAZIL" if asked else ",,,"
        more = "True,FEMALE,False,True,True,True,3.0" if asked else ",,,,,,"
        sizes = "6.0,5.5" if asked else ","
        dx = list(PAD)[lesion % 6]
        lines.append(
            f"PAT_{lesion // 2},{lesion:03d},{history},{40 + lesion},{more},ARM,{sizes},{dx},True,UNK,False,False,UNK,"
            f"True,{name},{asked}"
        )
        image(tmp_path / f"imgs_part_{1 + number % 3}" / name)
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_pad_ufes_20_has_patients_lesions_and_answers(pad_ufes_20: Path) -> None:
    result = import_pad_ufes_20(str(pad_ufes_20), MILK10K, str(pad_ufes_20 / "m.parquet"))
    manifest = result.manifest
    validate(manifest, MILK10K)
    assert (len(manifest), result.found, result.unknown) == (18, 18, {})
    assert [len(set(manifest.column(name))) for name in ("pair_id", "lesion_id", "patient_id")] == [18, 18, 9]
    assert {len(pair.uris(Modality.CLINICAL)) for pair in manifest.pairs()} == {2}
    assert manifest.column("lesion_id")[1] == "001", "leading zeros stay"
    assert Counter(manifest.column("diagnosis")) == {
        "bcc": 3, "squamous_cell_carcinoma_or_bowens": 3, "akiec": 3, "bkl": 3, "mel": 3, "nv": 3
    }  # fmt: skip
    assert "one of several: squamous_cell_carcinoma_or_bowens (3)." in result.notes[0]
    assert set(manifest.table["skin_tone"].to_pylist()) == {3, None}
    assert set(manifest.column("skin_tone_scale")) == {"fitzpatrick", None}
    assert set(manifest.column("sex")) == {"female", None}
    assert manifest.table["diameter_2"].to_pylist()[:2] == [5.5, None]
    assert (manifest.column("itch")[0], manifest.column("grew")[0], manifest.column("hurt")[0]) == (1.0, None, 0.0)


def test_an_answer_that_is_not_understood_is_one_message(pad_ufes_20: Path) -> None:
    path = pad_ufes_20 / "metadata.csv"
    path.write_text(path.read_text().replace(",UNK,False,", ",MAYBE,False,", 1))
    with pytest.raises(ManifestError, match="column 'grew': 'maybe' is not True, False or UNK"):
        import_pad_ufes_20(str(pad_ufes_20), MILK10K, "m.parquet")


@pytest.fixture
def isic2019(tmp_path: Path) -> Path:
    classes = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK")
    truth, metadata = ["image," + ",".join(classes)], ["image,age_approx,anatom_site_general,lesion_id,sex"]
    for number in range(27):
        name = f"ISIC_{number:07d}" + ("_downsampled" if number % 4 == 0 else "")
        truth.append(name + "," + ",".join(str(float(i == number % 9)) for i in range(9)))
        lesion = f"BCN_{number % 9:07d}" if number >= 9 else ""
        metadata.append(f"{name},{'' if number % 2 else '30.0'},anterior torso,{lesion},female")
        image(tmp_path / "ISIC_2019_Training_Input" / f"{name}.jpg")
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text("\n".join(truth) + "\n")
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text("\n".join(metadata) + "\n")
    return tmp_path


def test_isic2019_leaves_out_what_has_no_diagnosis(isic2019: Path) -> None:
    result = import_isic2019(str(isic2019), MILK10K, str(isic2019 / "m.parquet"))
    validate(result.manifest, MILK10K)
    assert (len(result.manifest), result.found, result.unknown) == (16, 18, {"UNK": 2})
    assert sum(len(pair.uris(Modality.DERMOSCOPY)) for pair in result.manifest.pairs()) == 24
    assert Counter(result.manifest.column("diagnosis"))["squamous_cell_carcinoma_or_bowens"] == 2
    path = isic2019 / "ISIC_2019_Training_GroundTruth.csv"
    path.write_text(path.read_text().replace("1.0,", "0.0,", 1))
    with pytest.raises(ManifestError, match="row 1: expected one class with 1"):
        import_isic2019(str(isic2019), MILK10K, "m.parquet")


ISIC_COLUMNS = (
    "isic_id,attribution,copyright_license,age_approx,anatom_site_general,diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_4,"
    "diagnosis_confirm_type,fitzpatrick_skin_type,image_type,lesion_id,patient_id,sex"
)
NAEVUS = "Benign,Benign melanocytic proliferations,Nevus"
MELANOMA = "Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma Invasive"


@pytest.fixture
def isic_archive(tmp_path: Path) -> Path:
    """A pair, a lesion of five images, an image without lesion, an overview, and a new name."""
    rows = [
        ("dermoscopic", "IL_1", f"{NAEVUS},"),
        ("clinical: close-up", "IL_1", f'{NAEVUS},"Nevus, Spilus"'),
        *((kind, "IL_2", f"{MELANOMA},") for kind in ("dermoscopic", "clinical: close-up") for _ in range(2)),
        ("TBP tile: close-up", "IL_2", f"{MELANOMA},"),
        ("dermoscopic", "", "Benign,,,"),
        ("clinical: overview", "IL_1", f"{NAEVUS},"),
        ("dermoscopic", "IL_3", f"{NAEVUS},A name of next year"),
        ("dermoscopic", "IL_4", ",,,"),
    ]
    lines = [ISIC_COLUMNS]
    for number, (kind, lesion, diagnosis) in enumerate(rows):
        name = f"ISIC_{number:07d}"
        credit = "Another clinic" if number == 3 else "A clinic"
        lines.append(
            f"{name},{credit},CC-BY,55,head/neck,{diagnosis},histopathology,IV,{kind},{lesion},IP_{lesion},male"
        )
        image(tmp_path / f"{name}.jpg")
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_an_isic_export_has_all_images_of_a_lesion_in_one_row(isic_archive: Path) -> None:
    result = import_isic_archive(str(isic_archive), MILK10K, str(isic_archive / "m.parquet"))
    manifest = result.manifest
    validate(manifest, MILK10K)
    rows = {pair.pair_id: pair for pair in manifest.pairs()}
    assert set(rows) == {"IL_1", "IL_2", "ISIC_0000007", "IL_3"}
    images = {name: [len(pair.uris(modality)) for modality in Modality] for name, pair in rows.items()}
    assert images == {"IL_1": [1, 1], "IL_2": [3, 2], "ISIC_0000007": [0, 1], "IL_3": [0, 1]}
    assert [rows[name].diagnosis for name in rows] == ["nv", "mel", "nv", "benign"]
    assert result.unknown == {"(no diagnosis)": 1}
    assert any("Images of other kinds skipped: clinical: overview (1)." in note for note in result.notes)
    assert set(manifest.table["skin_tone"].to_pylist()) == {4}
    assert set(manifest.column("copyright_license")) == {"CC-BY"}
    assert manifest.column("attribution").count("A clinic; Another clinic") == 1


def test_images_of_a_lesion_that_exclude_each_other_are_one_message(isic_archive: Path) -> None:
    path = isic_archive / "metadata.csv"
    path.write_text(path.read_text().replace(MELANOMA, NAEVUS, 1))
    with pytest.raises(ManifestError, match=r"lesion IL_2: .* different diagnoses \(Melanoma Invasive, Nevus\)"):
        import_isic_archive(str(isic_archive), MILK10K, "m.parquet")
    result = import_isic_archive(str(isic_archive), MILK10K, "m.parquet", conflicts="drop")
    assert "IL_2" not in result.manifest.column("lesion_id")
    assert "1 lesion with diagnoses that exclude each other dropped." in result.notes
    with pytest.raises(ConfigError, match=r"--conflicts: unknown rule 'drp'. Did you mean 'drop'"):
        import_isic_archive(str(isic_archive), MILK10K, "m.parquet", conflicts="drp")
