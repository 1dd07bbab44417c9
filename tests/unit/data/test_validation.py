from typing import Any

import pyarrow as pa
import pytest

from derm_ray.data.manifest import conform
from derm_ray.data.validation import find_problems, validate
from derm_ray.errors import ManifestError
from derm_ray.vocabulary import PAPER15

GOOD = {"lesion_id": "L1", "clinical_uri": "a.jpg", "dermoscopy_uri": "b.jpg", "diagnosis": "melanoma"}


def problems(*rows: dict[str, Any], complete: tuple[str | None, ...] = ()) -> list[str]:
    return list(find_problems(conform(pa.Table.from_pylist(list(rows)), "m.csv"), PAPER15, complete=complete))


def test_a_good_row_has_no_problem() -> None:
    assert problems(GOOD, complete=(None,)) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, GOOD], "rows 1, 2: pair_id 'L1' stands 2 times"),
        ([GOOD | {"clinical_uri": None, "dermoscopy_uri": None}], "row 1: neither clinical_uri nor dermoscopy_uri"),
        ([GOOD | {"dermoscopy_uri": "a.jpg"}], "/a.jpg"),
        ([GOOD | {"dermoscopy_uri": "./b/../a.jpg"}], "are the same file"),
        ([GOOD | {"diagnosis": "melanome"}], "row 1: unknown paper15 diagnosis 'melanome'. Did you mean 'melanoma'?"),
        ([GOOD | {"split": "trian"}], "Did you mean 'train'?"),
        ([GOOD | {"age_years": 200.0}], "age_years 200 is outside 0..130"),
        ([GOOD | {"skin_tone": 3}], "skin_tone needs a skin_tone_scale"),
        ([GOOD | {"skin_tone": 6, "skin_tone_scale": "milk"}], "outside 0..5 of the milk scale"),
        ([GOOD | {"lesion_id": None, "pair_id": "x"}], "must not be empty"),
    ],
)
def test_each_rule_names_its_row(rows: list[dict[str, Any]], message: str) -> None:
    assert any(message in problem for problem in problems(*rows)), problems(*rows)


@pytest.mark.parametrize("column", ["lesion_id", "patient_id"])
def test_a_group_in_two_splits_is_found(column: str) -> None:
    first = GOOD | {"pair_id": "1", "patient_id": "P1", "split": "train"}
    second = first | {"pair_id": "2", "split": "test"}
    assert any(f"{column} " in p and "(test, train)" in p for p in problems(first, second))


def test_training_needs_both_images_and_a_diagnosis() -> None:
    bare = GOOD | {"clinical_uri": None, "diagnosis": None}
    assert problems(bare) == []
    assert len(problems(bare, complete=(None,))) == 2


def test_only_the_splits_in_use_must_be_complete_and_rows_keep_their_numbers() -> None:
    test = GOOD | {"lesion_id": "L1", "split": "test", "diagnosis": None, "clinical_uri": None}
    train = GOOD | {"lesion_id": "L2", "split": "train", "diagnosis": None}
    assert problems(test, train, complete=("train",)) == ["row 2: diagnosis is empty; training needs one"]


def test_all_problems_are_listed_at_once() -> None:
    manifest = conform(pa.Table.from_pylist([GOOD, GOOD | {"diagnosis": "x"}]), "m.csv")
    with pytest.raises(ManifestError, match="2 problems") as caught:
        validate(manifest, PAPER15)
    assert len(caught.value.problems) == 2


def test_an_empty_manifest_is_a_problem() -> None:
    assert list(find_problems(conform(pa.table({"lesion_id": pa.array([], pa.string())}), "m.csv"))) == ["no rows"]
