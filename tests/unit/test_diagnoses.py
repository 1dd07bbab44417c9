import pytest

from derm_ray.diagnoses import concepts, decided_class, find, isic_tree, possible_classes
from derm_ray.domain import LABEL_SETS, MILK10K, PAPER15, label_set


def test_every_diagnosis_has_its_place_in_the_isic_archives_tree() -> None:
    for concept in concepts().values():
        assert set(concept.covers) <= set(isic_tree()), concept.name
    assert [c.name for c in concepts().values() if not c.covers] == ["miscellaneous"]


def test_every_class_is_a_diagnosis_with_the_same_meaning_in_all_label_sets() -> None:
    for labels in LABEL_SETS.values():
        for name in labels.class_names:
            assert labels.collapses or name in concepts()
            assert possible_classes(name, labels) == (name,)
            assert decided_class(name, labels) == name


def test_spellings_name_one_diagnosis_each() -> None:
    spellings: dict[str, set[tuple[str, ...]]] = {}
    for concept in concepts().values():
        for word in (concept.name, concept.title.casefold(), *concept.aliases):
            assert word == word.casefold()
            spellings.setdefault(word, set()).add(concept.covers)
    assert [word for word, covers in spellings.items() if len(covers) > 1] == []


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("BCC", "bcc"),
        ("Basal Cell Carcinoma", "basal_cell_carcinoma"),
        ("nevus", "naevus"),
        ("NEV", "naevus"),
        ("nevus, spilus", "Nevus, Spilus"),
        ("sarcoidosis", None),
    ],
)
def test_words_are_found_in_any_case(word: str, name: str | None) -> None:
    found = find(word)
    assert (found.name if found is not None else None) == name


def test_ham10000s_coarse_labels_are_the_fine_ones_that_they_cover() -> None:
    naevi = ("blue_naevus", "compound_naevus", "dermal_naevus", "junctional_naevus")
    keratoses = ("keratotic_lesion", "seborrheic_keratosis", "solar_lentigo")
    expected = {
        "nv": naevi,
        "bkl": keratoses,
        "akiec": ("actinic_keratosis", "bowens_disease"),
        "vasc": ("hemangioma",),
    }
    for name, classes in expected.items():
        assert possible_classes(name, PAPER15) == classes
        assert decided_class(name, PAPER15) is None
    for name, only in {"mel": "melanoma", "bcc": "basal_cell_carcinoma", "df": "dermatofibroma"}.items():
        assert decided_class(name, PAPER15) == only
        assert possible_classes(name, PAPER15) == (only,)


def test_the_nearest_class_above_a_diagnosis_takes_it() -> None:
    """milk10k has a class for all other benign lesions; naevi have one of their own."""
    assert decided_class("Nevus, Spilus", MILK10K) == "nv"
    assert decided_class("Trichoblastoma", MILK10K) == "ben_oth"
    assert decided_class("Kaposi sarcoma", MILK10K) == "mal_oth"
    assert decided_class("Keratoacanthoma", PAPER15) == "squamous_cell_carcinoma"
    assert possible_classes("malignant", MILK10K) == ("akiec", "bcc", "mal_oth", "mel", "sccka")
    assert possible_classes("Nevus, Spilus", PAPER15) == ()


def test_a_task_is_decided_where_all_that_is_possible_agrees() -> None:
    assert decided_class("nv", label_set("paper15_cancer")) == "not_cancer"
    assert decided_class("akiec", label_set("paper15_cancer_isic")) is None
    assert possible_classes("akiec", label_set("paper15_cancer_isic")) == ("not_cancer", "cancer")
    assert decided_class("squamous_cell_carcinoma_or_bowens", label_set("paper15_cancer_isic")) == "cancer"
    assert possible_classes("bcc", label_set("paper15_melanoma")) == ()
    assert decided_class("cancer", label_set("paper15_cancer")) == "cancer"
