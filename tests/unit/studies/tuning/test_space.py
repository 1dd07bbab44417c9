from pathlib import Path

import pytest

from derm_ray.errors import ConfigError
from derm_ray.studies.tuning.space import Range, domains, most_epochs, read_space
from derm_ray.training.config import make_config

BASE = make_config("debug")


def write(folder: Path, text: str) -> str:
    (folder / "space.yaml").write_text(text)
    return str(folder / "space.yaml")


def test_lists_and_ranges_are_typed_as_the_recipe(tmp_path: Path) -> None:
    uri = write(
        tmp_path,
        "learning_rate: {min: 1e-5, max: 1e-3, log: true}\nepochs: {min: 2, max: 5}\nfreeze_batch_norm: [true, false]\n"
        "tap: [null, relu3_1]\nalpha: [1, 1.0, 2e-1]\naccumulation: {min: 2, max: 8, log: true}\n",
    )
    space = read_space(uri, BASE)
    assert space == {
        "learning_rate": Range(1e-5, 1e-3, True),
        "epochs": Range(2, 5, False),
        "freeze_batch_norm": (True, False),
        "tap": (None, "relu3_1"),
        "alpha": (1.0, 0.2),
        "accumulation": Range(2, 8, True),
    }
    assert most_epochs(space, BASE) == 5
    assert most_epochs({}, BASE) == BASE.epochs
    assert most_epochs({"epochs": (3, 9, 4)}, BASE) == 9
    drawn = domains(space)
    epochs = {drawn["epochs"].sample() for _ in range(200)}
    assert epochs == {2, 3, 4, 5}
    assert {drawn["accumulation"].sample() for _ in range(300)} == set(range(2, 9))
    assert all(1e-5 <= drawn["learning_rate"].sample() <= 1e-3 for _ in range(50))
    assert drawn["tap"].categories == [None, "relu3_1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: [1]", r"space\.yaml: unknown setting 'learning_rat'\. Did you mean 'learning_rate'"),
        ("epochs: []", r"epochs: the list is empty"),
        ("epochs: [0]", r"invalid setting epochs=0"),
        ("epochs: [[1]]", r"epochs: \[1\] is not a value"),
        ("epochs: [true]", r"epochs: True is not a value"),
        ("optimizer: [sgd, adam]", r"optimizer='adam'"),
        ("learning_rate: {min: 0, max: 1}", r"invalid setting learning_rate=0"),
        ("alpha: {min: 0, max: 1, log: true}", r"alpha: min 0\.0 has no logarithm"),
        ("alpha: {min: 2, max: 1}", r"alpha: min 2\.0 is not below max 1\.0"),
        ("alpha: {min: 2}", r"alpha: a range is {min: LOW, max: HIGH}"),
        ("alpha: {min: 1, max: 2, step: 1}", r"alpha: a range is"),
        ("alpha: {min: 1, max: 2, log: 10}", r"alpha: a range is"),
        ("epochs: {min: 1.5, max: 3}", r"invalid setting epochs=1\.5"),
        ("optimizer: {min: adamw, max: sgd}", r"optimizer: not a number, so it has no range"),
        ("freeze_batch_norm: {min: false, max: true}", r"freeze_batch_norm: not a number"),
        ("rank: {min: null, max: 3}", r"rank: min None is not below"),
        ("alpha: 3", r"alpha: 3 is neither a list of values nor"),
        ("label_set: [paper15]", r"label_set cannot be searched, since trials would not compare"),
        ("monitor: [accuracy]", r"monitor cannot be searched"),
        ("{}", r"no settings to search"),
        ("loss: [cross_entropy, squared]\nlabel_smoothing: [0, 0.1]", r"loss=squared, label_smoothing=0\.1: .*Search them apart"),
    ],
)  # fmt: skip
def test_a_space_that_is_wrong_is_one_message(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        read_space(write(tmp_path, text), BASE)
