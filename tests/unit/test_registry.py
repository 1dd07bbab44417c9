import sys
from pathlib import Path

import pytest

from derm_ray.errors import ConfigError
from derm_ray.registry import Registry


def registry() -> Registry[object]:
    return Registry("test fruit", {"apple": "math:pi", "pear": "math:tau"})


def test_a_name_is_found_and_its_module_imported_only_then() -> None:
    fruits = Registry("test fruit", {"apple": "math:pi", "pear": "no_such_module:pear"})
    assert list(fruits) == ["apple", "pear"]
    assert str(fruits) == "apple, pear"
    fruits.check("pear")
    assert fruits["apple"] == pytest.approx(3.14159, abs=1e-5)
    with pytest.raises(
        ConfigError, match=r"test fruit 'pear' is no_such_module:pear, which cannot be imported: No mod"
    ):
        fruits["pear"]


def test_an_unknown_name_is_one_message_with_the_nearest_and_all_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown test fruit 'aple'\. Did you mean 'apple'\? Known: apple, pear\."):
        registry()["aple"]


def test_added_things_are_found_and_duplicates_refused() -> None:
    fruits = registry()
    fruits.add("plum", 3)
    assert fruits["plum"] == 3
    assert "plum" in fruits
    with pytest.raises(ConfigError, match="test fruit 'plum' is registered twice"):
        fruits.add("plum", 4)


def plugin(folder: Path, name: str) -> str:
    info = folder / "fruits-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fruits\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[derm_ray.test_fruit]\n{name} = my_fruits:PLUM\n")
    (folder / "my_fruits.py").write_text("PLUM = 7\n")
    return str(folder)


def test_installed_packages_add_things_by_entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin(tmp_path, "plum"))
    assert list(registry()) == ["apple", "pear", "plum"]
    assert registry()["plum"] == 7
    sys.modules.pop("my_fruits")


def test_a_package_cannot_replace_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin(tmp_path, "pear"))
    with pytest.raises(ConfigError, match="test fruit 'pear' is registered twice, once more as my_fruits:PLUM"):
        registry()["pear"]
    assert registry()["apple"]
