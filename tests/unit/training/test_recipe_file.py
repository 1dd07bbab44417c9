from pathlib import Path

import pytest

from derm_ray.errors import ConfigError, StorageError
from derm_ray.training.config import config_from_json, make_config
from derm_ray.training.recipe import make_recipe, read_mapping, write_recipe


def write(folder: Path, text: str) -> str:
    (folder / "r.yaml").write_text(text)
    return str(folder / "r.yaml")


def test_the_file_changes_the_preset_and_set_changes_the_file(tmp_path: Path) -> None:
    uri = write(
        tmp_path, "preset: debug\nepochs: 3\nlearning_rate: 1e-4\nfreeze_batch_norm: true\ntap: null\nalpha: 2\n"
    )
    config = make_recipe(None, uri, ["epochs=5"])
    expected = {"epochs": 5, "learning_rate": 1e-4, "freeze_batch_norm": True, "alpha": 2.0}
    assert config == make_config("debug", expected)
    assert make_recipe("cpu", write(tmp_path, "epochs: 3\n"), []) == make_config("cpu", {"epochs": 3})
    assert make_recipe(None, write(tmp_path, "epochs: 3\n"), []) == make_config("paper", {"epochs": 3})
    assert make_recipe("debug", None, []) == make_config("debug")


def test_a_written_recipe_is_read_as_it_was(tmp_path: Path) -> None:
    config = make_config("debug", {"learning_rate": 3e-5, "seed": 7})
    uri = write(tmp_path, write_recipe(config))
    assert config_from_json(read_mapping(uri)) == config == make_recipe(None, uri, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", r"r\.yaml: unknown setting 'epoch'\. Did you mean 'epochs'"),
        ("epochs: 0", r"r\.yaml: invalid setting epochs=0"),
        ("epochs: many", r"r\.yaml: invalid setting epochs='many'"),
        ("epochs: true", r"r\.yaml: epochs: True is not a value"),
        ("epochs: [3, 4]", r"r\.yaml: epochs: \[3, 4\] is not a value"),
        ("epochs: 3\nepochs: 4", r"r\.yaml, line 1: 'epochs' is given twice"),
        ("- epochs", "not a mapping of settings"),
        ("", "not a mapping of settings"),
        ("3: 4", "not a mapping of settings"),
        ("epochs: [", r"r\.yaml, line 1: .*Correct the YAML"),
        ("preset: papr", "unknown preset 'papr'. Did you mean 'paper'"),
        ("preset: [a]", r"preset: \['a'\] is not a name"),
        ("a: \x00", "not a YAML file"),
    ],
)
def test_a_file_that_is_no_recipe_is_one_message(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_recipe(None, write(tmp_path, text), [])


def test_two_presets_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"starts from preset debug\. Remove it there, or --preset cpu"):
        make_recipe("cpu", write(tmp_path, "preset: debug"), [])
    with pytest.raises(StorageError, match="not found"):
        make_recipe(None, str(tmp_path / "none.yaml"), [])
