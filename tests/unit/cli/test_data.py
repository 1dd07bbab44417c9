import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.data.importers import IMPORTERS
from derm_ray.data.importers.importer import Importer, ImportResult, Option
from derm_ray.data.manifest import normalize_schema, read_manifest
from derm_ray.domain import LabelSet
from derm_ray.errors import ManifestError

RUNNER = CliRunner()


def run(*arguments: str) -> tuple[str, str]:
    result = RUNNER.invoke(app, ["data", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout, result.stderr


def imported(folder: Path, patients: list[str], *options: str) -> tuple[str, str]:
    """Import lesions of patients, every other patient's diagnosis melanoma."""
    for name in ("c.jpg", "d.jpg"):
        (folder / name).write_bytes(b"x")
    rows = ["lesion_id,patient_id,clinical,dermoscopy,diagnosis"]
    rows += [
        f"L{i},{patient},c.jpg,d.jpg,{'Melanoma' if i // 2 % 2 else 'Blue Naevus'}"
        for i, patient in enumerate(patients)
    ]
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return run("import", "folder", str(folder / "list.csv"), "--out", str(folder / "m.parquet"), *options)


def test_ids_that_differ_in_blanks_are_one_patient_and_one_part(tmp_path: Path) -> None:
    imported(tmp_path, [f"PAT{i // 2}" + ("", " ", "\u00a0")[i // 2 % 3] * (i % 2) for i in range(60)])
    out, _ = run("split", str(tmp_path / "m.parquet"))
    assert "60 lesions, 30 patients" in out
    manifest = read_manifest(str(tmp_path / "m.parquet"))
    parts: dict[str | None, set[str | None]] = defaultdict(set)
    for patient, split in zip(manifest.column("patient_id"), manifest.column("split"), strict=True):
        parts[patient].add(split)
    assert len(parts) == 30
    assert all(len(splits) == 1 for splits in parts.values())


@pytest.mark.parametrize("word", ["NA", "None", "nan", "NULL", "unknown", "n/a"])
def test_words_for_missing_are_no_patient_and_counted(tmp_path: Path, word: str) -> None:
    out, err = imported(tmp_path, [f"PAT{i}" if i < 20 else word for i in range(60)])
    assert "missing     patient_id 40" in out
    assert f"read as missing: patient_id {word} 40" in out
    assert err == ""
    out, err = run("split", str(tmp_path / "m.parquet"))
    assert "60 lesions, 20 patients, 40 pairs without a patient id" in out
    assert err == ""
    counts = read_manifest(str(tmp_path / "m.parquet")).column("split")
    assert counts.count("test") < 25
    (line, _) = run("describe", str(tmp_path / "m.parquet"), "--json")
    assert json.loads(line)["missing"]["patient_id"] == 40


def test_a_patient_of_most_lesions_is_a_warning_of_every_command(tmp_path: Path) -> None:
    _, err = imported(tmp_path, [f"PAT{i}" if i < 20 else "anonymous" for i in range(60)])
    warning = "warning: patient_id 'anonymous' has 40 of 60 lesions (67%)"
    assert warning in err
    for command in ("split", "validate"):
        assert warning in run(command, str(tmp_path / "m.parquet"))[1]
    line, _ = run("validate", str(tmp_path / "m.parquet"), "--json")
    assert json.loads(line)["warnings"]


def test_validate_opens_the_images_when_asked(tmp_path: Path) -> None:
    imported(tmp_path, [f"PAT{i}" for i in range(3)])
    assert "3 pairs, valid" in run("validate", str(tmp_path / "m.parquet"))[0]
    result = RUNNER.invoke(app, ["data", "validate", str(tmp_path / "m.parquet"), "--images"])
    assert "3 problems" in str(result.exception)
    assert f"{tmp_path}/c.jpg" in str(result.exception)


def test_a_split_of_rows_that_break_rules_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("lesion_id,patient_id,clinical_uri\nL1,P\u200b1,a.jpg\n")
    result = RUNNER.invoke(app, ["data", "split", str(path)])
    assert "patient_id 'P\\u200b1' contains invisible characters" in str(result.exception)
    assert "split" not in path.read_text()


def test_options_of_the_folder_importer(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    csv = tmp_path / "list.csv"
    csv.write_bytes("id\tfoto\tPatient\nL1\ta.jpg\tM\u00fcller\n".encode("cp1252"))
    columns = ["--column", "lesion_id=id", "--column", "clinical = foto", "--column", "patient_id=Patient"]
    out = str(tmp_path / "m.csv")
    run("import", "folder", str(csv), "--out", out, *columns, "--delimiter", "tab", "--encoding", "cp1252")
    assert read_manifest(out).column("patient_id") == ["M\u00fcller"]
    Path(out).unlink()
    for wrong in (["--column", "clinical"], [*columns, "--column", "clinical=id"]):
        result = RUNNER.invoke(app, ["data", "import", "folder", str(csv), "--out", out, *wrong])
        assert "write NAME=HEADER" in str(result.exception)


def test_a_registered_importer_is_a_command_with_its_options(tmp_path: Path, registered: Callable[..., None]) -> None:
    def read(source: str, label_set: LabelSet, out_uri: str, *, prefix: str | None) -> ImportResult:
        names = Path(source).read_text().split()
        table = pa.table(
            {
                "lesion_id": [f"{prefix}{name}" for name in names],
                "clinical_uri": [f"{tmp_path}/{name}.jpg" for name in names],
                "diagnosis": [label_set.class_names[0]] * len(names),
            }
        )
        return ImportResult(normalize_schema(table, out_uri), len(names) + 1, {"sarcoid": 1})

    option = {"prefix": Option("Before each name.", "TEXT")}
    toy = Importer(read, "Import a list of names.", "A text.", "milk10k", option)
    registered(IMPORTERS, "names", toy)
    (tmp_path / "names.txt").write_text("a b")
    assert "Import a list of names." in run("import", "--help")[0]
    help_text = run("import", "names", "--help")[0]
    assert "--prefix" in help_text
    assert "milk10k" in help_text
    out, _ = run("import", "names", str(tmp_path / "names.txt"), "--out", f"{tmp_path}/m.csv", "--prefix", "L")
    assert "2 of 3 pairs imported as milk10k" in out
    assert "1  sarcoid" in out
    assert read_manifest(f"{tmp_path}/m.csv").column("lesion_id") == ["La", "Lb"]


def test_an_unknown_importer_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["data", "import", "folders", "list.csv", "--out", f"{tmp_path}/m.csv"])
    assert (
        str(result.exception)
        == "unknown importer 'folders'. Did you mean 'folder'? Known: milk10k, derm7pt, ham10000, pad_ufes_20, isic_archive, isic2019, folder."
    )
    result = RUNNER.invoke(app, ["data", "import", "photos/list.csv"])
    assert str(result.exception).endswith(" For a CSV: derm-ray data import folder photos/list.csv --out m.parquet")


def test_unknown_diagnoses_are_counted_and_skipped_or_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jpg").write_bytes(b"x")
    csv = tmp_path / "list.csv"
    rows = ["L1,c.jpg,BCC", "L2,c.jpg,nevus", "L3,c.jpg,sarcoid", "L4,c.jpg,", "L5,c.jpg,Nevus spilus", "L6,c.jpg,INF"]
    csv.write_text("\n".join(["lesion_id,clinical,diagnosis", *rows]) + "\n")
    out, _ = run("import", "folder", str(csv), "--out", f"{tmp_path}/m.csv")
    assert "3 of 6 pairs imported as paper15" in out
    assert "1 pair skipped, with a diagnosis that is not in paper15:\n      1  INF\n" in out
    assert "2 pairs skipped, with no diagnosis, or one that is unknown:" in out
    assert "one of several: naevus (1)." in out
    assert read_manifest(f"{tmp_path}/m.csv").column("diagnosis") == ["basal_cell_carcinoma", "naevus", None]
    strict = RUNNER.invoke(app, ["data", "import", "folder", str(csv), "--out", f"{tmp_path}/n.csv", "--strict"])
    assert isinstance(strict.exception, ManifestError)
    assert strict.exception.problems == (
        "unknown diagnosis 'sarcoid' (1 pair)",
        "unknown diagnosis 'Nevus spilus' (1 pair)",
    )
    arguments = ["data", "import", "folder", str(csv), "--out", f"{tmp_path}/n.csv", "--label-set", "paper16"]
    assert "Did you mean 'paper15'?" in str(RUNNER.invoke(app, arguments).exception)


def test_a_diagnosis_column_with_another_name_is_a_warning(tmp_path: Path) -> None:
    for name in ("c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    csv = tmp_path / "list.csv"
    csv.write_text("lesion_id,clinical,dermoscopy,diagnosys\nL1,c.jpg,d.jpg,melanoma\n")
    out, err = run("import", "folder", str(csv), "--out", f"{tmp_path}/m.parquet")
    assert err == (
        "warning: no column 'diagnosis': no pair has a diagnosis, which training and evaluation need. Did you mean "
        "'diagnosys'? If it has another name: --column diagnosis=NAME.\n"
    )
    assert "Kept unchanged, not manifest columns: 'diagnosys'." in out


@pytest.mark.parametrize("command", ["validate", "describe"])
def test_a_list_of_photos_given_as_manifest_is_one_message(tmp_path: Path, command: str) -> None:
    csv = tmp_path / "list.csv"
    csv.write_text("lesion_id,clinical,dermoscopy\n" + "".join(f"L{i},a.jpg,b.jpg\n" for i in range(12)))
    result = RUNNER.invoke(app, ["data", command, str(csv)])
    assert isinstance(result.exception, ManifestError)
    assert result.exception.problems == (
        "no column 'clinical_uri' or 'dermoscopy_uri'. Columns found: 'lesion_id', 'clinical', 'dermoscopy'. Import "
        f"it first: `derm-ray data import folder {csv} --out m.parquet`",
    )


def test_a_manifest_or_a_list_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("lesion_id,clinical,diagnosis,note\nL1,a.jpg,melanoma,mine\n")
    before = listed.read_bytes()
    result = RUNNER.invoke(app, ["data", "import", "folder", str(listed), "--out", str(listed)])
    assert "list.csv exists and would be overwritten. Choose another --out, or delete it first." in str(
        result.exception
    )
    assert listed.read_bytes() == before
