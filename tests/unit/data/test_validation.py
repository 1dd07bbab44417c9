from typing import Any

import pyarrow as pa
import pytest

from derm_ray.data.manifest import normalize_schema
from derm_ray.data.validation import find_warnings, validate
from derm_ray.domain import PAPER15
from derm_ray.errors import ManifestError

GOOD = {"lesion_id": "L1", "clinical_uri": "a.jpg", "dermoscopy_uri": "b.jpg", "diagnosis": "melanoma"}


def problems(
    *rows: dict[str, Any],
    labeled: tuple[str | None, ...] = (),
    complete: tuple[str | None, ...] = (),
    purpose: str = "training",
) -> list[str]:
    try:
        manifest = normalize_schema(pa.Table.from_pylist(list(rows)), "m.csv")
        validate(manifest, PAPER15, labeled=labeled, complete=complete, purpose=purpose)
    except ManifestError as error:
        return list(error.problems)
    return []


def test_a_good_row_has_no_problem() -> None:
    assert problems(GOOD, complete=(None,)) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD, GOOD], "rows 1, 2: pair_id 'L1' occurs 2 times"),
        ([GOOD | {"clinical_uri": None, "dermoscopy_uri": None}], "row 1: neither clinical_uri nor dermoscopy_uri"),
        ([GOOD | {"dermoscopy_uri": "a.jpg"}], "/a.jpg"),
        ([GOOD | {"dermoscopy_uri": "./b/../a.jpg"}], "are the same file"),
        ([GOOD | {"diagnosis": "melanome"}], "row 1: unknown paper15 diagnosis 'melanome'. Did you mean 'melanoma'?"),
        ([GOOD | {"split": "trian"}], "Did you mean 'train'?"),
        ([GOOD | {"age": 200.0}], "row 1: age 200 is outside 0..120 years"),
        ([GOOD | {"sex": "F"}], "row 1: unknown sex 'f'. Known: female, male, other."),
        ([GOOD | {"skin_tone": 3}], "skin_tone needs a skin_tone_scale"),
        ([GOOD | {"skin_tone": 6, "skin_tone_scale": "milk"}], "outside 0..5 of the milk scale"),
        ([GOOD | {"lesion_id": "na", "pair_id": "x"}], "row 1: pair_id and lesion_id must not be empty (nor NA"),
        ([GOOD, GOOD | {"lesion_id": "L1\u00a0"}], "rows 1, 2: pair_id 'L1' occurs 2 times"),
        *[
            ([{"pair_id": "x"} | GOOD | {name: "P\u200b1"}], f"row 1: {name} 'P\\u200b1' contains invisible characters")
            for name in ("pair_id", "lesion_id", "patient_id")
        ],
        ([GOOD | {"clinical_uri": r"C:\img\a.jpg"}], r"row 1: clinical_uri C:\img\a.jpg is a Windows path"),
        ([GOOD] * 30, ", 19, 20 and 10 more: pair_id 'L1' occurs 30 times"),
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


def test_training_needs_a_diagnosis_and_a_study_both_images() -> None:
    bare = GOOD | {"clinical_uri": None, "diagnosis": None}
    assert problems(bare) == []
    assert problems(bare, labeled=(None,)) == ["row 1: diagnosis is empty; training needs one"]
    assert len(problems(bare, complete=(None,))) == 2
    assert problems(GOOD | {"clinical_uri": None}, labeled=(None,)) == []


def test_only_the_splits_in_use_must_be_complete_and_rows_keep_their_numbers() -> None:
    test = GOOD | {"lesion_id": "L1", "split": "test", "diagnosis": None, "clinical_uri": None}
    train = GOOD | {"lesion_id": "L2", "split": "train", "diagnosis": None}
    assert problems(test, train, labeled=("train",)) == ["row 2: diagnosis is empty; training needs one"]
    assert problems(test, train, complete=("train",)) == ["row 2: diagnosis is empty; training needs one"]


def test_all_problems_are_listed_at_once() -> None:
    assert len(problems(GOOD, GOOD | {"diagnosis": "x"})) == 2


def test_the_known_diagnoses_are_listed_once() -> None:
    rows = [GOOD | {"lesion_id": str(i), "diagnosis": ("navus", "nawus", "melanome")[i % 3]} for i in range(6)]
    first, second, third = problems(*rows)
    assert first.startswith("rows 1, 4: unknown paper15 diagnosis 'navus'.")
    assert "Known: actinic_keratosis, " in first
    assert second.startswith("rows 2, 5: unknown paper15 diagnosis 'nawus'.")
    assert third == "rows 3, 6: unknown paper15 diagnosis 'melanome'. Did you mean 'melanoma'?"
    assert "Known" not in second


def test_a_diagnosis_outside_the_label_set_is_a_problem_and_a_coarse_one_is_not() -> None:
    rows = [GOOD | {"lesion_id": str(i), "diagnosis": ("nv", "inf", "naevus")[i]} for i in range(3)]
    assert problems(*rows) == ["row 2: diagnosis 'inf' is outside label set paper15; leave these rows out"]


def test_an_empty_manifest_is_a_problem() -> None:
    with pytest.raises(ManifestError, match="no rows"):
        validate(normalize_schema(pa.table({"lesion_id": pa.array([], pa.string())}), "m.csv"))


def test_a_message_says_what_needs_both_images() -> None:
    found = problems(GOOD | {"dermoscopy_uri": None}, complete=(None,), purpose="the study")
    assert found == ["row 1: dermoscopy_uri is empty; the study needs both images"]


def warnings(lesions: dict[str | None, int]) -> list[str]:
    """Return the warnings of patients with numbers of lesions."""
    patients = [patient for patient, count in lesions.items() for _ in range(count)]
    rows = [GOOD | {"lesion_id": f"lesion {i}", "patient_id": patient} for i, patient in enumerate(patients)]
    return list(find_warnings(normalize_schema(pa.Table.from_pylist(rows), "m.csv")))


def patients(count: int, lesions: int) -> dict[str | None, int]:
    return {f"P{i}x": lesions for i in range(count)}


@pytest.mark.parametrize(
    ("owned", "share"),
    [
        (
            patients(20, 1) | {"anonymous": 40},
            "patient_id 'anonymous' has 40 of 60 lesions (67%), the others have 1",
        ),
        ({"0": 12}, "patient_id '0' has 12 of 12 lesions (100%). If it means unknown, leave it empty."),
        (patients(5000, 1) | {"?": 200}, "patient_id '?' has 200 of 5200 lesions (4%)"),
    ],
)
def test_a_patient_with_an_implausible_share_is_a_warning(owned: dict[str | None, int], share: str) -> None:
    (warning,) = warnings(owned)
    assert warning.startswith(share)


@pytest.mark.parametrize(
    "owned",
    [
        {"P": 9},
        {"P": 9, "Q": 1},
        {"P": 20, "Q": 20, "R": 20},
        {"P": 20, "Q": 5},
        {None: 500} | patients(3, 1),
        patients(2000, 15) | {"naevi": 115},
        patients(500, 1) | {"naevi": 40},
    ],
)
def test_plausible_patients_are_no_warning(owned: dict[str | None, int]) -> None:
    assert warnings(owned) == []


def test_a_lesion_with_an_implausible_share_of_pairs_is_a_warning() -> None:
    rows = [GOOD | {"pair_id": str(i), "lesion_id": "x" if i < 30 else f"L{i}"} for i in range(60)]
    (warning,) = find_warnings(normalize_schema(pa.Table.from_pylist(rows), "m.csv"))
    assert warning.startswith("lesion_id 'x' has 30 of 60 pairs (50%)")


@pytest.mark.parametrize("other", ["p1", "P01", "P1.0", "P\uff11"])
def test_ids_that_look_alike_are_a_warning(other: str) -> None:
    assert [warning[:11] for warning in warnings({"P1": 1, other: 1})] == ["patient_id:"]
    assert warnings({"P1": 1, "P10": 1, "P-1": 1, "P1.5": 1, "P1.05": 1}) == []


def test_many_repetitions_do_not_take_for_ever() -> None:
    rows = [{"lesion_id": f"L{i // 2}", "clinical_uri": "a.jpg", "split": "train"} for i in range(40_000)]
    assert sum("occurs 2 times" in line for line in problems(*rows)) == 20_000
