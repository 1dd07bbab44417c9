import pyarrow as pa

from derm_ray.data.labels import collapse
from derm_ray.data.manifest import normalize_schema
from derm_ray.data.summary import few_lesions
from derm_ray.domain import Split, label_set

# diagnosis -> lesions in val; each lesion has two pairs
LESIONS = {"melanoma": 4, "blue_naevus": 3, "hemangioma": 2}


def test_classes_with_few_lesions_in_a_split_are_named_with_their_numbers() -> None:
    rows = [
        {
            "pair_id": f"{name}{n}{twice}",
            "lesion_id": f"{name}{n}",
            "clinical_uri": "a",
            "diagnosis": name,
            "split": "val",
        }
        for name, lesions in LESIONS.items()
        for n in range(lesions)
        for twice in "ab"
    ]
    manifest = normalize_schema(pa.Table.from_pylist(rows), "m.csv")
    labels = label_set("paper15_melanoma")
    warning = few_lesions(collapse(manifest, labels), labels, Split.VAL)
    assert warning == (
        "val has 9 lesions: fewer than 5 of melanoma (4). What is learned or measured of so few is mostly chance."
    )
    paper15 = few_lesions(manifest, label_set("paper15"), Split.VAL)
    assert paper15 is not None
    assert "val has 9 lesions: none of actinic_keratosis, bowens_disease, compound_naevus, " in paper15
    assert "; fewer than 5 of blue_naevus (3), hemangioma (2), melanoma (4). " in paper15


def test_enough_lesions_of_every_class_give_no_warning() -> None:
    rows = [
        {"pair_id": f"{name}{n}", "clinical_uri": "a", "diagnosis": name, "split": "test"}
        for name in label_set("paper15").class_names
        for n in range(5)
    ]
    manifest = normalize_schema(pa.Table.from_pylist(rows), "m.csv")
    assert few_lesions(manifest, label_set("paper15"), Split.TEST) is None
    assert few_lesions(manifest, label_set("paper15"), Split.VAL) is not None
