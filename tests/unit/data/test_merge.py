from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.data.manifest import Manifest, normalize_schema, read_manifest
from derm_ray.data.merge import merge
from derm_ray.data.splits import split_manifest
from derm_ray.data.validation import validate
from derm_ray.domain import MILK10K
from derm_ray.errors import ConfigError, ManifestError


def of(uri: str, **columns: object) -> Manifest:
    return normalize_schema(pa.table(columns), uri)


@pytest.fixture
def clinic() -> Manifest:
    return of(
        "/a/clinic.csv",
        pair_id=["1", "2"],
        lesion_id=["1", "2"],
        patient_id=["7", "7"],
        clinical_uri=["c/1.jpg", "c/2.jpg"],
        dermoscopy_uri=["d/1.jpg", None],
        diagnosis=["melanoma", "nv"],
        itch=[1.0, 0.0],
    )


@pytest.fixture
def ham() -> Manifest:
    return of(
        "/b/ham.parquet",
        pair_id=["1", "ISIC_0000001", "ISIC_0000002"],
        lesion_id=["1", "H1", "H2"],
        dermoscopy_uri=["1.png", "ISIC_0000001.jpg", "ISIC_0000002.jpg"],
        diagnosis=["bkl", "naevus", "benign_keratosis"],
        source=pa.array(["vienna"] * 3, pa.large_string()),
    )


@pytest.fixture
def isic() -> Manifest:
    return of(
        "s3://bucket/isic.csv",
        pair_id=["L9", "ISIC_0000003"],
        lesion_id=["L9", "L3"],
        dermoscopy_uri=["x/ISIC_0000001.JPG", "x/ISIC_0000003.JPG"],
        diagnosis=["Nevus, Spilus", "mel"],
    )


def test_ids_in_common_get_their_manifests_name_and_the_others_stay(clinic: Manifest, ham: Manifest) -> None:
    joined = merge([clinic, ham], "/m.parquet")
    validate(joined.manifest, MILK10K)
    assert joined.manifest.column("pair_id")[:3] == ["clinic:1", "clinic:2", "ham:1"]
    assert joined.manifest.column("lesion_id")[-1] == "ham:H2"
    assert joined.manifest.column("patient_id") == ["7", "7", None, None, None]
    assert joined.manifest.column("source") == ["clinic", "clinic", "vienna", "vienna", "vienna"]
    assert joined.manifest.column("itch") == [1.0, 0.0, None, None, None]
    assert joined.manifest.column("clinical_uri")[0] == "/a/c/1.jpg"
    assert joined.manifest.column("dermoscopy_uri")[2] == "/b/1.png"
    assert joined.notes[0] == "pair_id: clinic and ham had ids in common; all begin with its name now."


def test_an_image_of_the_isic_archive_under_two_ids_stays_in_one_split(ham: Manifest, isic: Manifest) -> None:
    joined = merge([ham, isic], "/m.parquet")
    assert joined.manifest.column("duplicate_group") == [None, "ISIC_0000001", None, "ISIC_0000001", None]
    assert joined.notes == (
        "1 group of rows with the same images, by the ids of the ISIC Archive: splits keep them together. derm-ray data "
        "audit finds those under other ids.",
    )
    for seed in range(8):
        parts = split_manifest(joined.manifest, seed).manifest.column("split")
        assert parts[1] == parts[3]
    torn = joined.manifest.with_column("split", ["train", "train", "train", "test", "test"])
    with pytest.raises(ManifestError, match="duplicate_group 'ISIC_0000001' is in several splits"):
        validate(torn)
    again = merge([joined.manifest, of("/x.csv", lesion_id=["n"], clinical_uri=["n.jpg"])], "/n.parquet")
    assert len(again.manifest) == 6


def test_diagnoses_that_exclude_each_other_are_listed_until_a_rule_is_chosen(ham: Manifest, isic: Manifest) -> None:
    other = isic.with_column("diagnosis", ["mel", "mel"])
    with pytest.raises(ManifestError) as caught:
        merge([ham, other], "/m.parquet")
    assert caught.value.problems == (
        "images of ISIC_0000001: naevus in vienna, mel in isic",
        "choose a rule for images that are diagnosed differently: --conflicts first or drop",
    )
    first = merge([ham, other], "/m.parquet", "first").manifest
    assert first.column("diagnosis") == ["bkl", "naevus", "benign_keratosis", "naevus", "mel"]
    dropped = merge([ham, other], "/m.parquet", "drop").manifest
    assert dropped.column("pair_id") == ["1", "ISIC_0000002", "ISIC_0000003"]


def test_what_cannot_be_joined_is_named(clinic: Manifest, ham: Manifest) -> None:
    text = of("/a/notes.csv", lesion_id=["n"], clinical_uri=["n.jpg"], itch=["yes"], diagnosis=["sarcoid"])
    with pytest.raises(
        ManifestError, match="column 'itch' is text in notes, and not in clinic; rename one, or drop it"
    ):
        merge([clinic, text], "/m.csv")
    with pytest.raises(ManifestError, match=r"unknown diagnosis 'sarcoid' \(1 row\)"):
        merge([ham, text], "/m.csv")
    twin = of("/b/clinic.parquet", lesion_id=["1"], clinical_uri=["n.jpg"])
    with pytest.raises(ConfigError, match=r"manifests of one name \(clinic\) have ids in common. Rename"):
        merge([clinic, twin], "/m.csv")


def test_sources_are_split_in_the_same_shares() -> None:
    """90 lesions of one clinic and 10 of another: each has its own 30% of test."""
    ids = [f"L{i}" for i in range(100)]
    sources = ["a"] * 90 + ["b"] * 10
    whole = of("/m.csv", lesion_id=ids, clinical_uri=[f"{i}.jpg" for i in ids], diagnosis=["nv"] * 100, source=sources)
    for seed in range(5):
        found = split_manifest(whole, seed).manifest
        tests = [s for s, part in zip(sources, found.column("split"), strict=True) if part == "test"]
        assert (tests.count("a"), tests.count("b")) == (27, 3)


def test_the_command(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.csv").write_text("lesion_id,clinical_uri,diagnosis\n1,a.jpg,nv\n")
    arguments = ["data", "merge", f"{tmp_path}/one.csv", f"{tmp_path}/two.csv", "--out", f"{tmp_path}/m.parquet"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.stdout.startswith(f"2 pairs of 2 manifests joined to {tmp_path}/m.parquet\n")
    assert read_manifest(f"{tmp_path}/m.parquet").column("pair_id") == ["one:1", "two:1"]
