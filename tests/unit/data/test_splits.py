from collections import Counter, defaultdict

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from derm_ray.data.manifest import Manifest, normalize_schema
from derm_ray.data.splits import assign_folds, split_manifest
from derm_ray.domain import PAPER15, Split
from derm_ray.errors import ConfigError

ROW = st.tuples(
    st.integers(0, 25),  # lesion
    st.one_of(st.none(), st.integers(0, 10)),  # patient
    st.sampled_from(PAPER15.class_names[:5]),
)


def manifest_of(rows: list[tuple[int, int | None, str]]) -> Manifest:
    return normalize_schema(
        pa.Table.from_pylist(
            [
                {
                    "pair_id": str(i),
                    "lesion_id": f"L{lesion}",
                    "patient_id": None if p is None else f"P{p}",
                    "clinical_uri": "a",
                    "diagnosis": diagnosis,
                }
                for i, (lesion, p, diagnosis) in enumerate(rows)
            ]
        ),
        "m.csv",
    )


@given(st.lists(ROW, min_size=1, max_size=80), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_no_group_is_in_two_splits(rows: list[tuple[int, int | None, str]], seed: int) -> None:
    manifest = split_manifest(manifest_of(rows), seed).manifest
    for column in ("lesion_id", "patient_id"):
        found: dict[str, set[str]] = defaultdict(set)
        for group, split in zip(manifest.column(column), manifest.column("split"), strict=True):
            assert split in set(Split)
            if group is not None:
                found[group].add(str(split))
        assert all(len(splits) == 1 for splits in found.values())


@given(st.lists(ROW, min_size=1, max_size=60), st.randoms())
@settings(max_examples=50, deadline=None)
def test_the_split_does_not_depend_on_the_order_of_rows(
    rows: list[tuple[int, int | None, str]], random: object
) -> None:
    manifest = manifest_of(rows)
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Manifest(manifest.table.take(pa.array(order)), manifest.uri)
    first, second = (split_manifest(m).manifest for m in (manifest, shuffled))
    assert dict(zip(first.column("pair_id"), first.column("split"), strict=True)) == dict(
        zip(second.column("pair_id"), second.column("split"), strict=True)
    )


def test_shares_are_seven_to_three_with_val_from_train() -> None:
    manifest = split_manifest(manifest_of([(i, None, PAPER15.class_names[i % 5]) for i in range(2000)])).manifest
    share = {split: manifest.column("split").count(split) / 2000 for split in Split}
    assert abs(share[Split.TEST] - 0.3) < 0.01
    assert abs(share[Split.VAL] - 0.7 * 0.15) < 0.01


def test_seeds_differ_and_repeat() -> None:
    manifest = manifest_of([(i, None, "melanoma") for i in range(100)])
    first = split_manifest(manifest, 1).manifest.column("split")
    assert first == split_manifest(manifest, 1).manifest.column("split")
    assert first != split_manifest(manifest, 2).manifest.column("split")


def test_a_class_with_two_lesions_goes_to_train_with_a_warning() -> None:
    result = split_manifest(manifest_of([(0, None, "melanoma"), (1, None, "melanoma")]))
    assert result.manifest.column("split") == ["train", "train"]
    assert "melanoma: only 2" in result.warnings[0]


def test_a_split_without_some_class_is_one_warning() -> None:
    names = PAPER15.class_names[:4]
    result = split_manifest(manifest_of([(i, i, names[i % 4]) for i in range(12)]))
    assert any("val" in line for line in result.warnings)
    for part in Split:
        absent = sorted(set(names) - set(result.manifest.select(part).column("diagnosis")))
        told = [line for line in result.warnings if line.startswith(f"split {part} ")]
        assert len(told) == bool(absent)
        if 0 < len(absent) < 4:
            assert told[0].startswith(f"split {part} has no lesion of {', '.join(absent)}. ")


def in_train_and_val(rows: list[tuple[int, int | None, str]]) -> Manifest:
    manifest = manifest_of(rows)
    return manifest.with_column("split", [("train", "val", "test")[row % 3] for row in range(len(rows))])


@given(st.lists(ROW, min_size=30, max_size=80), st.integers(2, 5), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_folds_keep_groups_together_and_leave_test_out(
    rows: list[tuple[int, int | None, str]], folds: int, seed: int
) -> None:
    # A lesion is in one split, as after derm-ray data split, and has one diagnosis.
    names = PAPER15.class_names
    single = [(lesion * 3 + row % 3, None, names[lesion % 2]) for row, (lesion, *_) in enumerate(rows)]
    manifest = in_train_and_val(single)
    groups = {lesion: name for row, (lesion, _, name) in enumerate(single) if row % 3 < 2}
    assume(min(Counter(groups.values()).values()) > 1)
    assume(len(groups) >= folds)
    found = assign_folds(manifest, folds, seed).of_row
    assert found == assign_folds(manifest, folds, seed).of_row
    splits = manifest.column("split")
    assert {fold for fold, split in zip(found, splits, strict=True) if split == "test"} <= {0}
    of: dict[str, set[int]] = defaultdict(set)
    for lesion, fold, split in zip(manifest.column("lesion_id"), found, splits, strict=True):
        if split != "test":
            assert 1 <= fold <= folds
            of[lesion].add(fold)
    assert all(len(of_lesion) == 1 for of_lesion in of.values())
    sizes = Counter(fold for (fold,) in of.values())
    assert max(sizes.values()) - min(sizes.get(fold, 0) for fold in range(1, folds + 1)) <= 1


def folded(diagnoses: list[str], patients: list[int | None] | None = None) -> Manifest:
    """A lesion of each diagnosis, all in train."""
    manifest = manifest_of([(at, patients[at] if patients else None, name) for at, name in enumerate(diagnoses)])
    return manifest.with_column("split", ["train"] * len(manifest))


def test_folds_are_stratified() -> None:
    result = assign_folds(folded(["nevus"] * 60 + ["bcc"] * 12), 5)
    assert result.warnings == ()
    for first, last, least in ((0, 60, 12), (60, 72, 2)):
        counts = Counter(result.of_row[first:last])
        assert set(counts) == {1, 2, 3, 4, 5}
        assert max(counts.values()) - min(counts.values()) <= 1
        assert min(counts.values()) >= least


def test_what_a_run_of_a_fold_could_not_learn_is_refused_with_its_count() -> None:
    lonely = folded(["nevus"] * 9 + ["dermatofibroma"] + ["scc"])
    with pytest.raises(ConfigError, match=r"^m\.csv: a single fold has all patients \(lesions, ") as caught:
        assign_folds(lonely, 3)
    assert "of dermatofibroma (1), scc (1), so that its run would learn from none. Use a label set" in str(caught.value)
    assert str(caught.value).endswith("or drop their lesions.")
    of_one_patient = folded(["nevus"] * 9 + ["scc"] * 3, [*range(9), 10, 10, 10])
    with pytest.raises(ConfigError, match=r"of scc \(1\)"):
        assign_folds(of_one_patient, 3)
    with pytest.raises(ConfigError, match=r"have 3 patients .* too few for 5 folds\. Use a smaller --folds"):
        assign_folds(folded(["nevus"] * 3), 5)


def test_a_diagnosis_of_two_patients_whose_main_diagnosis_is_another_is_in_two_folds_or_refused() -> None:
    patients = [patient for patient in range(6) for _ in range(3)]
    names = [name for patient in range(6) for name in ("nevus", "nevus", "scc" if patient in (1, 4) else "bcc")]
    manifest, refused = folded(names, list(patients)), []
    for seed in range(30):
        try:
            result = assign_folds(manifest, 2, seed)
        except ConfigError as error:
            refused.append(str(error))
            continue
        assert {result.of_row[at] for at, name in enumerate(names) if name == "scc"} == {1, 2}
    assert 0 < len(refused) < 30
    assert all("of scc (2)" in one for one in refused)
    assert all(one.endswith("Another seed may divide those with more than one.") for one in refused)


def test_diagnoses_with_fewer_groups_than_folds_are_one_warning() -> None:
    result = assign_folds(folded(["nevus"] * 20 + ["bcc"] * 5 + ["dermatofibroma"] * 4 + ["scc"] * 2), 5)
    assert [warning.partition(", which")[0] for warning in result.warnings] == [
        "some of the 5 folds have none to validate on of dermatofibroma (4), scc (2)"
    ]
    assert len(set(result.of_row[-2:])) == 2, "every run learns from one at least"
