import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from typer.testing import CliRunner

from derm_ray import storage
from derm_ray.bundle import load_bundle
from derm_ray.cli import app
from derm_ray.data import prepared
from derm_ray.data.inputs import open_input
from derm_ray.data.locations import Locations
from derm_ray.data.manifest import Manifest, normalize_schema, read_manifest, write_manifest
from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_pairs
from derm_ray.data.splits import split_manifest
from derm_ray.domain import PAPER15
from derm_ray.errors import ConfigError, ManifestError, OutputExistsError, StorageError
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.evaluation.quantization import quantize_bundle
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.plan import make_plan
from derm_ray.studies.baseline import run_baseline
from derm_ray.studies.reproduction.study import reproduce
from derm_ray.training.config import debug
from derm_ray.training.run.driver import train
from tests.conftest import take

SPEC = Preprocessing(64)


@pytest.fixture(autouse=True)
def one_pair_a_tar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every pair into a tar of its own."""
    monkeypatch.setattr(prepared, "TAR_BYTES", 2 * 3 * 64 * 64)


def encoded(kind: str) -> bytes:
    """Return a photo: smooth colors under noise, so that scaling and orientation show."""
    sides = {"large.jpg": (2000, 1500), "alpha.png": (190, 140)}
    width, height = sides.get(kind, (600, 450))
    channels = 4 if kind == "alpha.png" else 3
    y, x = np.mgrid[0:height, 0:width]
    slope = np.stack([x * 200 / width, y * 200 / height, (x + y) % 200, (x * y) % 250][:channels], -1)
    pixels = (slope + np.random.default_rng(7).integers(0, 55, slope.shape)).clip(0, 255).astype(np.uint8)
    sink, image = BytesIO(), Image.fromarray(pixels)
    exif = Image.Exif()
    if kind.startswith("rotated"):
        exif[0x0112] = 6
    image.save(sink, "PNG" if kind.endswith(".png") else "JPEG", exif=exif)
    return sink.getvalue()


def photos(folder: str) -> Manifest:
    """Write a manifest with images of several kinds, two pairs without one of them, and a further column."""
    for kind in ("small.jpg", "large.jpg", "alpha.png", "rotated.jpg", "rotated.png"):
        storage.write_bytes(f"{folder}/photos/{kind}", encoded(kind))
    rows = [
        {"lesion_id": "a", "clinical_uri": "photos/small.jpg", "dermoscopy_uri": "photos/large.jpg", "camera": "x"},
        {"lesion_id": "b", "clinical_uri": "photos/alpha.png", "dermoscopy_uri": "photos/rotated.jpg", "camera": "y"},
        {"lesion_id": "c", "dermoscopy_uri": "photos/rotated.png"},
        {"lesion_id": "d", "clinical_uri": "photos/large.jpg"},
    ]
    table = pa.Table.from_pylist(rows, pa.schema([(name, pa.string()) for name in rows[0]]))
    write_manifest(normalize_schema(table, folder), f"{folder}/m.parquet")
    return read_manifest(f"{folder}/m.parquet")


def load(manifest: Manifest, spec: Preprocessing = SPEC) -> list[PairPixels]:
    with ThreadPoolExecutor(2) as executor:
        loaded = load_pairs(manifest.pairs(), spec, executor)
    assert all(isinstance(pair, PairPixels) for pair in loaded), loaded
    return [pair for pair in loaded if isinstance(pair, PairPixels)]


def assert_same_pixels(one: Manifest, other: Manifest, spec: Preprocessing = SPEC) -> None:
    for before, after in zip(load(one, spec), load(other, spec), strict=True):
        for x, y in ((before.clinical, after.clinical), (before.dermoscopy, after.dermoscopy)):
            assert (x is None) == (y is None)
            assert x is None or (y is not None and x.tobytes() == y.tobytes())


def tars(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.tar"))}


@pytest.mark.parametrize("size", [64, 224])
def test_pixels_are_those_of_the_originals(tmp_path: Path, size: int) -> None:
    original, spec = photos(str(tmp_path)), Preprocessing(size)
    prepared.prepare(original, str(tmp_path / "out"), spec)
    found = read_manifest(str(tmp_path / "out" / "manifest.parquet"))
    assert_same_pixels(original, found, spec)
    kept = [name for name in original.table.column_names if not name.endswith("_uri")]
    assert found.table.select(kept).equals(original.table.select(kept))
    assert found.table.column_names == [*original.table.column_names, "prepared_size"]
    assert found.column("prepared_size") == [size] * 4
    moved = tmp_path / "out"
    moved.rename(tmp_path / "elsewhere")
    assert_same_pixels(original, read_manifest(str(tmp_path / "elsewhere" / "manifest.parquet")), spec)


def test_in_a_bucket(s3: str) -> None:
    original = photos(f"{s3}/prepared")
    out = f"{s3}/prepared/out"
    first = prepared.prepare(original, out, SPEC)
    assert (first.tars, first.reused) == (4, 0)
    found = read_manifest(f"{out}/manifest.parquet")
    assert str(found.pairs()[0].clinical_uri).startswith(f"{out}/images-")
    assert_same_pixels(original, found)
    storage.remove(f"{out}/manifest.parquet")
    assert prepared.prepare(original, out, SPEC).reused == 4
    assert_same_pixels(original, read_manifest(f"{out}/manifest.parquet"))
    with pytest.raises(OutputExistsError, match="already contains a manifest"):
        prepared.prepare(original, out, SPEC)


def test_all_images_that_cannot_be_used_are_listed_and_nothing_is_finished(tmp_path: Path) -> None:
    original, out = photos(str(tmp_path)), tmp_path / "out"
    (tmp_path / "photos" / "alpha.png").write_bytes(b"none")
    bad = original.with_column("dermoscopy_uri", [*original.column("dermoscopy_uri")[:2], "photos/no.png", None])
    with pytest.raises(ManifestError) as caught:
        prepared.prepare(bad, str(out), SPEC)
    assert [problem.split(": ")[0] for problem in caught.value.problems] == ["pair b", "pair c"]
    assert not (out / "manifest.parquet").exists()
    before = tars(out)
    assert len(before) == 2
    (tmp_path / "photos" / "alpha.png").write_bytes(encoded("alpha.png"))
    repaired = prepared.prepare(original, str(out), SPEC)
    assert (repaired.tars, repaired.reused) == (4, 2)
    assert before.items() <= tars(out).items()
    assert_same_pixels(original, repaired.manifest)


def test_a_run_that_broke_off_has_no_manifest_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, out, upload = photos(str(tmp_path)), tmp_path / "out", storage.upload

    def breaks_off(local_path: str, uri: str) -> None:
        if len(tars(out)) == 2:
            raise StorageError("gone")
        upload(local_path, uri)

    monkeypatch.setattr(storage, "upload", breaks_off)
    with pytest.raises(StorageError, match="gone"):
        prepared.prepare(original, str(out), SPEC)
    assert not (out / "manifest.parquet").exists()
    before = tars(out)
    monkeypatch.setattr(storage, "upload", upload)
    other = prepared.prepare(original, str(out), Preprocessing(48))
    assert other.reused == 0
    Path(other.manifest.uri).unlink()
    cut = out / max(before)
    cut.write_bytes(cut.read_bytes()[:-11_000])
    result = prepared.prepare(original, str(out), SPEC)
    assert (result.tars, result.reused) == (4, 1)
    assert_same_pixels(original, result.manifest)


def test_the_command(tmp_path: Path) -> None:
    photos(str(tmp_path))
    command = ["data", "prepare", f"{tmp_path}/m.parquet", "--out", f"{tmp_path}/out", "--size", "64"]
    done = CliRunner().invoke(app, [*command, "--json"])
    uri = f"{tmp_path}/out/manifest.parquet"
    assert json.loads(done.output.splitlines()[-1]) == {
        "manifest": uri,
        "pairs": 4,
        "size": 64,
        "tars": 4,
        "reused_tars": 0,
    }
    Path(uri).unlink()
    done = CliRunner().invoke(app, command)
    assert f"4 pairs at 64 px in 4 tars, {uri}\n4 of the tars existed already" in done.output
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, OutputExistsError)
    assert "Choose another --out, or delete that folder" in str(done.exception)


def test_every_user_of_a_size_refuses_another_one(pairs: Manifest, tmp_path: Path, bundle_uri: str) -> None:
    few = split_manifest(take(pairs, 60).with_column("split", [None] * 60)).manifest
    found = prepared.prepare(few, str(tmp_path / "out"), SPEC).manifest
    model = load_bundle(bundle_uri)

    def refuses(whose: str, size: int) -> AbstractContextManager[object]:
        told = rf"prepared at 64 px \(prepared_size\), but {whose} is {size}; .* `derm-ray data prepare --size {size}`"
        return pytest.raises(ConfigError, match=told)

    with refuses("the recipe's size", 32):
        train(replace(debug(), size=32), found, str(tmp_path), "run")
    with refuses("the model's size", 48):
        evaluate(Predictor(model, "torch"), found)
    with refuses("the model's size", 48):
        make_plan(open_input(found.uri), {}, 256, None, Locations(found.uri), model=model)
    with refuses("--size", 32):
        prepared.prepare(found, str(tmp_path / "again"), Preprocessing(32))
    with refuses("the baseline's size", 128):
        run_baseline(found, PAPER15)
    with refuses("the preset's size", 128):
        reproduce(found, str(tmp_path / "study"))
    pytest.importorskip("nncf")
    with refuses("the model's size", 48):
        quantize_bundle(bundle_uri, found)


def test_the_size_is_read_from_any_format(tmp_path: Path) -> None:
    found = prepared.prepare(photos(str(tmp_path)), str(tmp_path / "out"), SPEC).manifest
    for suffix in ("parquet", "csv", "jsonl"):
        write_manifest(found, f"{tmp_path}/out/copy.{suffix}")
        copy = read_manifest(f"{tmp_path}/out/copy.{suffix}")
        prepared.require_size(copy, SPEC, "the size")
        with pytest.raises(ConfigError, match="prepared at 64 px"):
            prepared.require_size(copy, Preprocessing(32), "the size")
    wrong = Manifest(found.table.drop_columns("prepared_size").append_column("prepared_size", [["big"] * 4]), found.uri)
    with pytest.raises(ManifestError, match="'prepared_size' is not int64"):
        prepared.require_size(wrong, SPEC, "the size")
