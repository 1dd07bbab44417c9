from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from derm_ray.audit.findings import Images, Problem, distinct, duplicate_groups, lesion_codes, problem_images
from derm_ray.audit.fingerprint import MEASURES, Fingerprints
from derm_ray.audit.fix import grouped, rows_to_drop, without
from derm_ray.audit.matching import joined
from derm_ray.data.manifest import Manifest, normalize_schema
from derm_ray.data.validation import validate

NONE = np.zeros(0, np.int64)


def _manifest(*rows: dict[str, Any]) -> Manifest:
    return normalize_schema(pa.Table.from_pylist(list(rows)), "/data/m.parquet")


def _row(name: str, split: str | None, clinical: str, diagnosis: str = "melanoma", lesion: str = "") -> dict[str, Any]:
    return {
        "pair_id": name,
        "lesion_id": lesion or name,
        "clinical_uri": clinical,
        "dermoscopy_uri": f"{name}_d.jpg",
        "split": split,
        "diagnosis": diagnosis,
    }


@pytest.fixture
def manifest() -> Manifest:
    """``a`` and ``b`` share a file, ``c`` is of one lesion with ``d``; ``e`` looks like ``c``."""
    return _manifest(
        _row("a", "train", "1.jpg"),
        _row("b", "test", "1.jpg", "dermatofibroma"),
        _row("c", "val", "2.jpg", lesion="L"),
        _row("d", "val", "3.jpg", lesion="L"),
        _row("e", "train", "4.jpg"),
        _row("f", None, "5.jpg"),
    )


def test_images_are_read_once_and_used_by_their_rows(manifest: Manifest) -> None:
    images = Images.of(manifest)
    assert len(images.uris) == 11
    assert len(images.rows) == 12
    uses = [(int(row), str(images.modality(use))) for use, row in enumerate(images.rows)]
    assert sorted(uses) == sorted((row, modality) for row in range(6) for modality in ("clinical", "dermoscopy"))
    first = images.uris.index("/data/1.jpg")
    assert images.rows[images.image == first].tolist() == [0, 1]


def test_equal_bytes_are_one_image_and_unreadable_ones_are_each_their_own() -> None:
    digests = np.zeros((5, 32), np.uint8)
    digests[[0, 2]], digests[1] = 7, 9
    chosen, place = distinct(digests, digests.any(1))
    assert len(chosen) == 4
    assert place[0] == place[2]
    assert len({*place.tolist()}) == 4
    assert all(place[image] == index for index, image in enumerate(chosen))


def test_there_may_be_no_image_that_can_be_read() -> None:
    chosen, place = distinct(np.zeros((3, 32), np.uint8), np.zeros(3, bool))
    assert chosen.tolist() == place.tolist() == [0, 1, 2]
    assert len(joined([]).first) == 0


def _groups(manifest: Manifest, near: list[tuple[str, str]]) -> Any:
    images = Images.of(manifest)
    place = np.arange(len(images.uris))
    at = [[images.uris.index(f"/data/{name}") for name in pair] for pair in near]
    first, second = np.array(at, np.int64).reshape(-1, 2).T
    return duplicate_groups(manifest, images, place, first, second), images


def test_duplicates_of_other_lesions_are_groups_those_across_splits_first(manifest: Manifest) -> None:
    groups, _ = _groups(manifest, [("2.jpg", "3.jpg"), ("5.jpg", "a_d.jpg"), ("3.jpg", "4.jpg")])
    assert [(group.rows, group.exact, group.leak, group.conflict) for group in groups] == [
        ((0, 1), True, True, True),
        ((2, 3, 4), False, True, False),
        ((0, 5), False, False, False),
    ]
    assert groups[0].splits == ("test", "train")
    alone, _ = _groups(manifest, [("2.jpg", "3.jpg")])
    assert [group.rows for group in alone] == [(0, 1)]


def test_the_lesion_of_an_image_is_known_where_it_has_one(manifest: Manifest) -> None:
    images = Images.of(manifest)
    codes = lesion_codes(manifest, images, np.arange(len(images.uris)), len(images.uris))
    shared, second, third = (codes[images.uris.index(f"/data/{name}.jpg")] for name in "123")
    assert shared == -1
    assert second == third >= 0


def test_the_fix_keeps_test_then_val_and_drops_whole_lesions(manifest: Manifest) -> None:
    groups, _ = _groups(manifest, [("3.jpg", "4.jpg"), ("5.jpg", "a_d.jpg")])
    dropped = rows_to_drop(manifest, groups)
    assert dropped == [0, 4]
    test = manifest.with_column("split", ["train", "train", "train", "train", "test", None])
    assert rows_to_drop(test, _groups(test, [("3.jpg", "4.jpg")])[0]) == [2, 3]
    fixed = without(manifest, dropped)
    assert fixed.column("pair_id") == ["b", "c", "d", "f"]
    validate(fixed)


def test_what_stays_is_grouped_also_with_groups_of_before(manifest: Manifest) -> None:
    groups, _ = _groups(manifest, [("3.jpg", "4.jpg"), ("5.jpg", "a_d.jpg")])
    found = grouped(manifest, groups)
    assert found.column("duplicate_group") == ["a", "a", None, "d", "d", "a"]
    again = grouped(grouped(manifest, groups[:1]), groups[1:])
    assert again.column("duplicate_group") == ["a", "a", None, "d", "d", "a"]
    validate(without(found, rows_to_drop(manifest, groups)))


def test_all_images_of_a_list_are_looked_at() -> None:
    several = _manifest(_row("a", "train", '["1.jpg", "2.jpg"]'), _row("b", "test", '["3.jpg", "2.jpg"]'))
    groups, images = _groups(several, [])
    assert len(images.uris) == 5
    assert [(group.rows, group.leak) for group in groups] == [((0, 1), True)]


def test_problems_are_below_their_limits() -> None:
    found = Fingerprints.empty(4)
    values = {"brightness": 120.0, "sharpness": 50.0, "shorter_side": 450.0, "skin": 0.9}
    found.measures[:3] = [values[name] for name in MEASURES]
    found.measures[0, MEASURES.index("sharpness")] = 1
    found.measures[1, MEASURES.index("skin")] = 0
    found.measures[2, MEASURES.index("shorter_side")] = 100
    found.errors[3] = ("corrupt", "damaged")
    problems = {str(name): images.tolist() for name, images in problem_images(found, prepared=False).items()}
    assert problems == {"unreadable": [3], "not_skin": [1], "blurred": [0], "dark": [], "tiny": [2]}
    assert Problem.TINY not in problem_images(found, prepared=True)
