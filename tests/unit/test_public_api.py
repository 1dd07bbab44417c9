import ast
import importlib.resources
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import derm_ray
from derm_ray.data.manifest import Manifest
from tests.conftest import take

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def run(blocks: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)  # noqa: S102 - the guide is ours
    return names


@pytest.fixture
def folder(pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the guide's reader works: pairs in ``data``."""
    from derm_ray.data.manifest import write_manifest

    (tmp_path / "data").mkdir()
    write_manifest(take(pairs, 240).absolute(), str(tmp_path / "data" / "manifest.parquet"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = "import sys, derm_ray; print({'torch', 'ray', 'pyarrow', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there_and_used_in_an_example() -> None:
    for name in derm_ray.__all__:
        assert getattr(derm_ray, name) is not None
    assert set(derm_ray.__all__) <= set(dir(derm_ray))
    used = {
        node.attr
        for block in examples()
        for node in ast.walk(ast.parse(block))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "derm_ray"
    }
    assert used == set(derm_ray.__all__) - {"RESEARCH_NOTICE", "__version__"}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'predictor'"):
        _ = derm_ray.predictor  # type: ignore[attr-defined]


def test_the_package_is_typed() -> None:
    assert importlib.resources.files("derm_ray").joinpath("py.typed").is_file()


def test_examples_without_ray_run(folder: Path, bundle_uri: str) -> None:
    shutil.copytree(bundle_uri, folder / "runs" / "first" / "bundle")
    names = run([block for block in examples() if "derm_ray.train(" not in block and "derm_ray.score(" not in block])
    assert names["prediction"].diagnosis in names["bundle"].label_set.class_names
    assert (folder / "evaluation" / "report.html").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_all_examples_run_in_order(folder: Path, ray_local: None) -> None:
    names = run(examples())
    assert names["result"].counts.scored == 240
    assert isinstance(names["scores"], pd.DataFrame)
    assert len(names["scores"]) == 240
