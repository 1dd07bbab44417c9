import pytest

from derm_ray.data.labels import collapse, decided, left_out
from derm_ray.data.manifest import Manifest
from derm_ray.domain import DERM7PT, MILK10K, PAPER15, Split, label_set
from derm_ray.training.batches import labeled


def test_a_task_collapses_the_diagnoses_of_a_manifest(pairs: Manifest) -> None:
    cancer = collapse(pairs, label_set("paper15_cancer"))
    assert len(cancer) == len(pairs)
    malignant = {"melanoma", "basal_cell_carcinoma", "squamous_cell_carcinoma"}
    for before, after in zip(pairs.column("diagnosis"), cancer.column("diagnosis"), strict=True):
        assert after == ("cancer" if before in malignant else "not_cancer")
    melanoma = collapse(pairs, label_set("paper15_melanoma"))
    skipped = sum(name in malignant - {"melanoma"} for name in pairs.column("diagnosis"))
    assert len(melanoma) == len(pairs) - skipped
    assert set(melanoma.column("diagnosis")) == {"melanoma", "benign"}
    assert collapse(pairs, PAPER15) is pairs


@pytest.fixture
def mixed(pairs: Manifest) -> Manifest:
    """Pairs of other data sets: certain, coarse and outside for paper15, in train and in test."""
    names = ["mel", "nv", "bkl", "Nevus, Spilus", "inf", "naevus"]
    train = pairs.select(Split.TRAIN).where([i < 6 for i in range(len(pairs.select(Split.TRAIN)))])
    return train.with_column("diagnosis", names)


def test_coarse_diagnoses_are_learned_as_one_of_several_classes(mixed: Manifest) -> None:
    kept = collapse(mixed, PAPER15, coarse=(Split.TRAIN,))
    assert kept.column("diagnosis") == ["melanoma", "nv", "bkl", "naevus"]
    assert decided(kept, PAPER15).column("diagnosis") == ["melanoma", None, None, None]
    split = labeled(mixed, Split.TRAIN, PAPER15)
    names = [[PAPER15.class_names[at] for at in row.nonzero()[0]] for row in split.classes]
    naevi = ["blue_naevus", "compound_naevus", "dermal_naevus", "junctional_naevus"]
    assert names == [["melanoma"], naevi, ["keratotic_lesion", "seborrheic_keratosis", "solar_lentigo"], naevi]
    assert split.labels.tolist() == [PAPER15.class_names.index("melanoma"), -1, -1, -1]
    assert split.class_counts.sum() == pytest.approx(4)
    assert split.class_counts[PAPER15.class_names.index("blue_naevus")] == pytest.approx(0.5)
    assert list(left_out(mixed, PAPER15, Split.TRAIN)) == [
        "train: 2 pairs are outside paper15, and left out: Nevus, Spilus (1), inf (1).",
        "train: 3 pairs are too coarse to be one class of paper15, and learned as one of several classes: nv (1), "
        "bkl (1), naevus (1).",
    ]


def test_coarse_diagnoses_do_not_count_in_evaluation(mixed: Manifest) -> None:
    held = mixed.with_column("split", ["test"] * 6)
    assert collapse(held, PAPER15).column("diagnosis") == ["melanoma"]
    assert collapse(held, MILK10K).column("diagnosis") == ["mel", "nv", "bkl", "nv", "inf", "nv"]
    assert "too coarse to be one class of paper15, and left out" in list(left_out(held, PAPER15, Split.TEST))[1]
    assert not list(left_out(held, MILK10K, Split.TEST))
    cancer = collapse(held, label_set("paper15_cancer"))
    assert cancer.column("diagnosis") == ["cancer", "not_cancer", "not_cancer", "not_cancer"]


def test_unknown_diagnoses_are_kept_for_validation(pairs: Manifest) -> None:
    odd = pairs.with_column("diagnosis", ["melanom"] * len(pairs))
    assert collapse(odd, PAPER15).column("diagnosis") == ["melanom"] * len(pairs)
    assert collapse(pairs, DERM7PT) is not pairs
