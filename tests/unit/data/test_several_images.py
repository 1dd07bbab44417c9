"""Lesions with several images of a modality: read, validated, loaded, drawn and prepared."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from derm_ray.data.importers.folder import import_folder
from derm_ray.data.manifest import Manifest, normalize_schema, read_manifest, write_manifest
from derm_ray.data.prepared import prepare
from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_pairs
from derm_ray.data.validation import validate
from derm_ray.domain import PAPER15, LesionPair, Modality, image_cell, image_uris
from derm_ray.errors import ImageError, ManifestError
from derm_ray.training.augmentation import POLICIES, Augmentation

CELL = '["a.png", "b.png", "c.png"]'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for level, name in enumerate("abcde"):
        Image.new("RGB", (40, 40), (50 * level, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def one(folder: Path, clinical: object = CELL, dermoscopy: object = "d.png") -> Manifest:
    columns = {
        "lesion_id": ["L"],
        "clinical_uri": [clinical],
        "dermoscopy_uri": [dermoscopy],
        "diagnosis": ["melanoma"],
    }
    return normalize_schema(pa.table(columns), str(folder / "m.csv"))


@pytest.mark.parametrize("cell", [None, "a.png", "[a].png", '["a.png"', '[1, "a.png"]', CELL])
def test_a_cell_names_any_number_of_images(cell: str | None) -> None:
    assert image_cell(image_uris(cell)) == cell
    assert len(image_uris(cell)) == (0 if cell is None else 3 if cell == CELL else 1)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_holds_lists(folder: Path, suffix: str) -> None:
    manifest = one(folder)
    path = str(folder / f"m.{suffix}")
    write_manifest(manifest, path)
    (pair,) = read_manifest(path).pairs()
    assert pair.uris(Modality.CLINICAL) == tuple(str(folder / f"{name}.png") for name in "abc")
    assert pair.uri(Modality.CLINICAL) == str(folder / "a.png")
    assert pair.has_several
    assert pair.first() == LesionPair("L", "L", str(folder / "a.png"), str(folder / "d.png"), "melanoma")


def test_lists_of_parquet_and_json_are_read(folder: Path) -> None:
    table = pa.table(
        {"lesion_id": ["L", "M"], "clinical_uri": [["a.png", "b.png"], []], "dermoscopy_uri": ["d.png"] * 2}
    )
    pq.write_table(table, folder / "lists.parquet")
    (folder / "lists.jsonl").write_text('{"lesion_id": "L", "clinical_uri": ["a.png", "b.png"]}\n')
    first, second = read_manifest(str(folder / "lists.parquet")).pairs()
    assert [len(first.uris(Modality.CLINICAL)), second.clinical_uri] == [2, None]
    (third,) = read_manifest(str(folder / "lists.jsonl")).pairs()
    assert third.clinical_uri == first.clinical_uri


def test_rules_hold_for_each_image(folder: Path) -> None:
    validate(one(folder), PAPER15)
    with pytest.raises(ManifestError, match=r"clinical_uri names .*a.png more than once"):
        validate(one(folder, '["a.png", "a.png"]'))
    with pytest.raises(ManifestError, match=r"clinical_uri and dermoscopy_uri are the same file, .*c.png"):
        validate(one(folder, dermoscopy="c.png"))
    (folder / "list.csv").write_text('lesion_id,clinical\nL,"[""a.png"", ""B.png"", ""z.png""]"\n')
    with pytest.raises(ManifestError) as caught:
        import_folder(str(folder / "list.csv"), PAPER15, str(folder / "x.csv"))
    assert [problem.partition(": no image")[0] for problem in caught.value.problems] == ["row 1, clinical"] * 2
    (folder / "list.csv").write_text('lesion_id,clinical\nL,"[""a.png"", ""b.png""]"\n')
    result = import_folder(str(folder / "list.csv"), PAPER15, str(folder / "x.csv"))
    assert result.manifest.pairs()[0].uris(Modality.CLINICAL) == (f"{folder}/a.png", f"{folder}/b.png")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.csv", 'lesion_id,clinical_uri\nL,"[""a.png"", """"]"\n'),
        ("m.jsonl", '{"lesion_id": "L", "clinical_uri": ["a.png", null]}\n'),
        ("m.jsonl", '{"lesion_id": "L", "clinical_uri": [["a.png"]]}\n'),
    ],
)
def test_a_list_of_something_else_is_one_message(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ManifestError, match=r"column 'clinical_uri' .*the list .* has something other than paths"):
        read_manifest(str(tmp_path / name))


def test_deep_brackets_are_a_name() -> None:
    assert image_uris("[" * 20_000) == ("[" * 20_000,)


def levels(pixels: tuple[np.ndarray, ...]) -> list[int]:
    return [int(image[0, 0, 0]) // 50 for image in pixels]


def test_all_images_are_loaded_and_paired_in_views(folder: Path) -> None:
    pairs = one(folder, dermoscopy='["d.png", "e.png"]').pairs()
    with ThreadPoolExecutor(2) as executor:
        (pixels,) = load_pairs(pairs, Preprocessing(32), executor)
        (broken,) = load_pairs([replace(pairs[0], dermoscopy_uri=f"{folder}/none.png")], Preprocessing(32), executor)
    assert isinstance(pixels, PairPixels)
    assert pixels.counts == {Modality.CLINICAL: 3, Modality.DERMOSCOPY: 2}
    assert levels(pixels.all_of(Modality.CLINICAL)) == [0, 1, 2]
    views = [levels(tuple(view.of(m) for m in Modality)) for view in pixels.views()]  # type: ignore[misc]
    assert views == [[0, 3], [1, 4], [2, 3]]
    assert isinstance(broken, ImageError)


def test_each_epoch_draws_one_image_by_seed_epoch_and_lesion(folder: Path) -> None:
    (pair,) = one(folder).pairs()

    def drawn(epoch: int, seed: int = 0) -> str:
        chosen = Augmentation(POLICIES["mirror"], seed, epoch).choose(pair)
        assert chosen.dermoscopy_uri == f"{folder}/d.png"
        assert not chosen.has_several
        return str(chosen.clinical_uri)

    counts = Counter(drawn(epoch) for epoch in range(300))
    assert set(counts) == {f"{folder}/{name}.png" for name in "abc"}
    assert min(counts.values()) > 70
    assert [drawn(epoch) for epoch in range(9)] == [drawn(epoch) for epoch in range(9)]
    assert [drawn(epoch) for epoch in range(9)] != [drawn(epoch, 1) for epoch in range(9)]


def test_prepared_images_are_the_same_lists(folder: Path) -> None:
    manifest = one(folder)
    prepared = prepare(manifest, str(folder / "prepared"), Preprocessing(32)).manifest
    with ThreadPoolExecutor(2) as executor:
        before, after = (load_pairs(of.pairs(), Preprocessing(32), executor)[0] for of in (manifest, prepared))
    assert isinstance(before, PairPixels)
    assert isinstance(after, PairPixels)
    for modality in Modality:
        assert np.array_equal(before.all_of(modality), after.all_of(modality))
