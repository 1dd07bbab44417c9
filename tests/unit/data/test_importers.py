import unicodedata
from pathlib import Path

import pytest

from derm_ray.data.importers.derm7pt import DIAGNOSES, import_derm7pt
from derm_ray.data.importers.folder import import_folder
from derm_ray.data.importers.importer import ImportResult
from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.validation import validate
from derm_ray.domain import DERM7PT, MILK10K, PAPER15, Modality
from derm_ray.errors import ConfigError, ManifestError, StorageError


@pytest.fixture
def milk10k(tmp_path: Path) -> Path:
    """Three lesions in the official layout; the last one is outside paper15."""
    diagnoses = {"IL_1": "Melanoma in situ", "IL_2": "Keratoacanthoma", "IL_3": "Trichoblastoma"}
    codes = {"IL_1": "MEL", "IL_2": "SCCKA", "IL_3": "BEN_OTH"}
    metadata, supplement, truth = [], [], []
    for number, (lesion, diagnosis) in enumerate(diagnoses.items()):
        for kind in ("clinical: close-up", "dermoscopic"):
            image = f"ISIC_{number}{kind[0]}"
            tone = "" if number == 1 else "4"
            metadata.append(f"{lesion},{kind},{image},55.0,female,{tone},trunk,0.{number}{len(kind)}")
            supplement.append(f'{image},"{diagnosis}"')
        truth.append(lesion + "," + ",".join(str(float(codes[lesion] == c)) for c in ("BEN_OTH", "MEL", "SCCKA")))
    files = {
        "Metadata": ["lesion_id,image_type,isic_id,age_approx,sex,skin_tone_class,site,MONET_hair", *metadata],
        "Supplement": ["isic_id,diagnosis_full", *supplement],
        "GroundTruth": ["lesion_id,BEN_OTH,MEL,SCCKA", *truth],
    }
    for name, lines in files.items():
        (tmp_path / f"MILK10k_Training_{name}.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_milk10k_as_paper15(milk10k: Path) -> None:
    result = import_milk10k(str(milk10k), PAPER15, str(milk10k / "m.parquet"))
    validate(result.manifest, PAPER15, complete=(None,))
    assert result.manifest.column("diagnosis") == ["melanoma", "squamous_cell_carcinoma"]
    assert result.found == 3
    assert result.outside == {"Trichoblastoma": 1}
    assert result.manifest.pairs()[0].clinical_uri == str(milk10k / "MILK10k_Training_Input/IL_1/ISIC_0c.jpg")
    assert result.manifest.column("skin_tone_scale") == ["milk", None]
    assert result.manifest.column("age") == [55, 55]
    scores = [result.manifest.column(f"monet_hair_{modality}") for modality in Modality]
    assert scores == [[0.018, 0.118], [0.011, 0.111]]


def test_a_monet_score_that_is_not_a_number_is_refused(milk10k: Path) -> None:
    path = milk10k / "MILK10k_Training_Metadata.csv"
    path.write_text(path.read_text().replace("0.018", "high"))
    with pytest.raises(ManifestError, match="a MONET score: could not convert string to float: 'high'"):
        import_milk10k(str(milk10k), PAPER15, "m.parquet")


def test_milk10k_as_its_own_classes(milk10k: Path) -> None:
    result = import_milk10k(str(milk10k), MILK10K, str(milk10k / "m.parquet"))
    assert result.manifest.column("diagnosis") == ["mel", "sccka", "ben_oth"]
    assert result.outside == result.unknown == {}


def test_a_lesion_without_dermoscopy_is_named(milk10k: Path) -> None:
    path = milk10k / "MILK10k_Training_Metadata.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "IL_2,derm" not in line) + "\n")
    with pytest.raises(ManifestError, match="lesion IL_2: expected exactly one dermoscopy image"):
        import_milk10k(str(milk10k), PAPER15, "m.parquet")


def test_a_wrong_folder_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"MILK10k_Training_Metadata\.csv: not found"):
        import_milk10k(str(tmp_path), PAPER15, "m.parquet")


def test_folder_takes_titles_and_lists_every_missing_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    csv = tmp_path / "list.csv"
    csv.write_text("lesion_id,clinical,dermoscopy,diagnosis\n01,a.jpg,b.jpg,Basal Cell Carcinoma\n02,a.jpg,,melanoma\n")
    result = import_folder(str(csv), PAPER15, str(tmp_path / "m.parquet"))
    assert result.manifest.column("diagnosis") == ["basal_cell_carcinoma", "melanoma"]
    assert result.manifest.column("lesion_id") == ["01", "02"]
    assert result.manifest.pairs()[0].dermoscopy_uri == str(tmp_path / "b.jpg")
    csv.write_text("lesion_id,clinical,dermoscopy\n01,no.jpg,b.jpg\n02,a.jpg,neither.jpg\n")
    with pytest.raises(ManifestError, match="2 problems"):
        import_folder(str(csv), PAPER15, str(tmp_path / "m.parquet"))
    csv.write_text("lesion_id,photo\n01,a.jpg\n")
    with pytest.raises(
        ManifestError, match=r"no column 'clinical' or 'dermoscopy'.*Columns found: 'lesion_id', 'photo'"
    ):
        import_folder(str(csv), PAPER15, str(tmp_path / "m.parquet"))


@pytest.fixture
def derm7pt(tmp_path: Path) -> Path:
    """Four cases in the official layout."""
    (tmp_path / "meta").mkdir()
    rows = [
        (1, "melanoma (in situ)", "a/1.jpg"),
        (2, "clark nevus", "a/2.jpg"),
        (3, "basal cell carcinoma", "b/3.jpg"),
        (4, "vascular lesion", "b/4.jpg"),
    ]
    lines = [f"{n},{d},0,absent,leg,female,{p},{p.replace('.', 'd.')},NEL" for n, d, p in rows]
    header = "case_num,diagnosis,seven_point_score,pigment_network,location,sex,clinic,derm,case_id"
    (tmp_path / "meta" / "meta.csv").write_text("\n".join([header, *lines]) + "\n")
    for name, indexes in (("train", "0\n1"), ("valid", "2"), ("test", "3")):
        (tmp_path / "meta" / f"{name}_indexes.csv").write_text(f"indexes\n{indexes}\n")
    return tmp_path


def test_derm7pt_keeps_its_own_splits(derm7pt: Path) -> None:
    result = import_derm7pt(str(derm7pt), DERM7PT, str(derm7pt / "m.parquet"))
    validate(result.manifest, DERM7PT)
    assert result.manifest.column("split") == ["train", "train", "val", "test"]
    assert result.manifest.column("diagnosis")[0] == "melanoma"
    (first, *_) = result.manifest.pairs()
    assert first.clinical_uri == f"{derm7pt}/images/a/1.jpg"
    assert first.dermoscopy_uri == f"{derm7pt}/images/a/1d.jpg"


def test_derm7pt_as_paper15_leaves_out_what_the_paper_has_not(derm7pt: Path) -> None:
    result = import_derm7pt(str(derm7pt), PAPER15, str(derm7pt / "m.parquet"))
    assert result.manifest.column("diagnosis") == ["melanoma", "basal_cell_carcinoma", "vascular_lesion"]
    assert result.outside == {"clark nevus": 1}
    assert result.notes == (
        "Too coarse to be one class of paper15; training learns them as one of several: vascular_lesion (1).",
    )
    assert set(DIAGNOSES.values()) == set(DERM7PT.class_names)
    milk = import_derm7pt(str(derm7pt), MILK10K, str(derm7pt / "m.parquet"))
    assert milk.manifest.column("diagnosis") == ["mel", "nv", "bcc", "vasc"]


def test_derm7pt_with_broken_indexes_is_one_message(derm7pt: Path) -> None:
    (derm7pt / "meta" / "test_indexes.csv").write_text("indexes\n1\n9\n")
    with pytest.raises(ManifestError, match=r"index 9 is outside the 4 rows(.|\n)*index 1 is also in train"):
        import_derm7pt(str(derm7pt), DERM7PT, "m.parquet")
    (derm7pt / "meta" / "test_indexes.csv").write_text("indexes\nx\n")
    with pytest.raises(ManifestError, match=r"test_indexes\.csv(.|\n)*invalid literal"):
        import_derm7pt(str(derm7pt), DERM7PT, "m.parquet")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe\x00", "cannot be read as utf-16"),
        (b"a,b\n1,2\n1,2,3,4\n", "row 2 .* has 4 cells"),
        (b"a,b\n1,2\n", "column 'case_num' is missing. Columns found: 'a', 'b'"),
    ],
)
def test_a_table_that_is_no_csv_is_one_message(derm7pt: Path, content: bytes, message: str) -> None:
    (derm7pt / "meta" / "meta.csv").write_bytes(content)
    with pytest.raises(ManifestError, match=rf"meta\.csv(.|\n)*{message}"):
        import_derm7pt(str(derm7pt), DERM7PT, "m.parquet")


def test_ids_of_the_official_data_sets_are_normalized(milk10k: Path, derm7pt: Path) -> None:
    metadata = milk10k / "MILK10k_Training_Metadata.csv"
    before = metadata.read_text()
    metadata.write_text(before.replace("IL_1,derm", "IL_1\u00a0,derm"))
    assert import_milk10k(str(milk10k), MILK10K, "m.parquet").manifest.column("lesion_id") == ["IL_1", "IL_2", "IL_3"]
    metadata.write_text(before.replace("IL_1,derm", "NA,derm").replace("IL_2,derm", "IL_2\u200b,derm"))
    with pytest.raises(ManifestError, match=r"row 2: lesion_id is empty(.|\n)*row 4: lesion_id 'IL_2\\u200b'"):
        import_milk10k(str(milk10k), MILK10K, "m.parquet")
    meta = derm7pt / "meta" / "meta.csv"
    meta.write_text(meta.read_text().replace("\n1,", "\n,"))
    with pytest.raises(ManifestError, match="row 1: case_num is empty"):
        import_derm7pt(str(derm7pt), DERM7PT, "m.parquet")


def test_a_ground_truth_that_is_not_one_class_is_named(milk10k: Path) -> None:
    truth = milk10k / "MILK10k_Training_GroundTruth.csv"
    truth.write_text("lesion_id,BEN_OTH,MEL,SCCKA\nIL_1,0.0,0.0,0.0\nIL_2,1.0,1.0,0.0\nIL_3,,1.0,0.0\nIL_3,0,1,0\n")
    with pytest.raises(ManifestError) as caught:
        import_milk10k(str(milk10k), MILK10K, "m.parquet")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["row 1", "row 2", "row 3", "row 4"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two images, one of them of a decomposed name."""
    (tmp_path / "img").mkdir()
    for name in ("a.jpg", unicodedata.normalize("NFD", "m\u00fcller.jpg")):
        (tmp_path / "img" / name).write_bytes(b"x")
    return tmp_path


def folder_csv(folder: Path, *rows: str, header: str = "lesion_id,clinical,dermoscopy,diagnosis") -> ImportResult:
    (folder / "list.csv").write_text("\n".join([header, *rows]) + "\n")
    return import_folder(str(folder / "list.csv"), PAPER15, str(folder / "m.parquet"))


def test_a_path_in_another_unicode_form_means_the_file_on_disk(photos: Path) -> None:
    result = folder_csv(photos, "1, img/a.jpg ,img/m\u00fcller.jpg, melanoma ")
    (pair,) = result.manifest.pairs()
    assert pair.clinical_uri == str(photos / "img" / "a.jpg")
    assert pair.dermoscopy_uri == str(photos / "img" / unicodedata.normalize("NFD", "m\u00fcller.jpg"))
    assert pair.diagnosis == "melanoma"
    assert result.notes == ("Image paths that differ from the names on disk in Unicode form only: 1.",)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("img", r"row 1, clinical: /.*/img is a folder, not an image"),
        (r"C:\fotos\a.jpg", r"row 1, clinical: C:\\fotos\\a.jpg is a Windows path"),
        (r"\\server\a.jpg", "is a Windows path"),
        (r"img\a.jpg", "Correct the path: write it with '/'"),
        ("img/A.jpg", r"no image at .*/img/A.jpg. Correct the path: 'a.jpg' exists \(different case\)"),
        ("img/a.jpg/b", "no image at .*/b. Correct the path$"),
        ("i" * 5000, "no image at"),
    ],
)
def test_a_path_that_is_no_image_is_called_what_it_is(photos: Path, path: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message) as caught:
        folder_csv(photos, f"1,{path},img/a.jpg,melanoma")
    assert len(caught.value.problems) == 1


def test_a_path_between_two_files_of_one_look_is_not_guessed(photos: Path) -> None:
    for form in ("NFC", "NFD"):
        (photos / "img" / unicodedata.normalize(form, "\u00fc\u00fc.jpg")).write_bytes(b"x")
    with pytest.raises(ManifestError, match="several files differ from it in Unicode form only"):
        folder_csv(photos, "1,img/\u00fcu\u0308.jpg,img/a.jpg,melanoma")


def test_columns_of_any_name_can_be_named(photos: Path) -> None:
    csv = photos / "list.csv"
    csv.write_text("id;foto;dx;diagnosis;Patient\nL1;img/a.jpg;Melanoma;x;P1\n")
    columns = ["lesion_id=id", "clinical=foto", "diagnosis=dx"]
    result = import_folder(str(csv), PAPER15, "m.parquet", column=columns)
    assert result.manifest.column("diagnosis") == ["melanoma"]
    assert result.notes == (
        "Skipped, replaced by --column: 'diagnosis'.",
        "Kept unchanged, not manifest columns: 'Patient'.",
    )
    assert result.warnings == (
        "no column 'dermoscopy': no pair has this image. If it has another name: --column dermoscopy=NAME.",
    )
    with pytest.raises(ManifestError, match=r"no column 'no'.*Columns found: 'id', 'foto'"):
        import_folder(str(csv), PAPER15, "m.parquet", column=["lesion_id=id", "clinical=no"])
    with pytest.raises(ConfigError, match=r"unknown column 'klinical'. Did you mean 'clinical'"):
        import_folder(str(csv), PAPER15, "m.parquet", column=["klinical=foto"])
    with pytest.raises(ManifestError, match="'foto' and 'dx' both map to clinical_uri"):
        import_folder(str(csv), PAPER15, "m.parquet", column=[*columns[:2], "clinical_uri=dx"])


def test_a_repeated_column_is_refused_as_it_stands(photos: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        folder_csv(
            photos,
            "L1,img/a.jpg,img/a.jpg,,,Melanoma",
            header="lesion_id,clinical,clinical,dermoscopy,diagnosis,diagnosis",
        )
    assert caught.value.problems == tuple(
        f"column {name!r} occurs more than once; keep one" for name in ("clinical", "diagnosis")
    )
    with pytest.raises(ManifestError, match="columns 'clinical' and 'clinical_uri' both map to clinical_uri; keep one"):
        folder_csv(photos, "L1,img/a.jpg,img/a.jpg", header="lesion_id,clinical,clinical_uri")
