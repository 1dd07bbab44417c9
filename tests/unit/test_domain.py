import pytest

from derm_ray.domain import LABEL_SETS, PAPER15, CancerDefinition, label_set
from derm_ray.errors import ConfigError


def test_paper15_has_three_cancers_and_twelve_benign() -> None:
    cancer, melanoma = PAPER15.tasks()
    assert set(cancer.positive) == {"melanoma", "basal_cell_carcinoma", "squamous_cell_carcinoma"}
    assert len(cancer.negative) == 12
    assert melanoma.positive == ("melanoma",)
    assert melanoma.negative == cancer.negative


def test_isic_definition_counts_bowens_as_cancer() -> None:
    cancer = PAPER15.tasks(CancerDefinition.ISIC)[0]
    assert "bowens_disease" in cancer.positive
    assert len(cancer.positive) == 4


def test_every_class_is_on_one_side_of_the_cancer_task() -> None:
    for labels in LABEL_SETS.values():
        for definition in CancerDefinition:
            cancer = next((task for task in labels.tasks(definition) if task.name == "cancer"), None)
            if cancer is None:
                assert labels.name.endswith("_melanoma")
                continue
            assert sorted([*cancer.positive, *cancer.negative]) == sorted(labels.class_names)


@pytest.mark.parametrize("definition", CancerDefinition)
@pytest.mark.parametrize("name", LABEL_SETS)
def test_no_class_is_on_both_sides_of_a_task(name: str, definition: CancerDefinition) -> None:
    tasks = label_set(name).tasks(definition)
    assert tasks
    for task in tasks:
        assert not set(task.positive) & set(task.negative)


def test_unknown_label_set_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'milk10k'"):
        label_set("milk10")
