"""Our cluster files, changed in one place and checked again."""

import copy
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from derm_ray.cli import app
from derm_ray.cli.cluster import check_words
from derm_ray.operations.cluster.schemas import CRDS_VARIABLE
from derm_ray.operations.cluster.validation import validate_file

CLUSTER = Path(__file__).parents[2] / "cluster"
GONE = object()
"""In place of a value: the key is taken out."""
ROOT = typer.main.get_command(app)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_STEP = re.compile(r"'([^']+)'|\[(\d+)\]|([^.\[\]']+)")

Validate = Callable[[str | Path], list[str]]
Changed = Callable[..., list[str]]


@pytest.fixture(params=["without", "with"])
def crds(request: pytest.FixtureRequest) -> str | None:
    """The folder of KubeRay's definitions, or none."""
    if request.param == "without":
        return None
    if CRDS_VARIABLE not in os.environ:
        pytest.skip(f"{CRDS_VARIABLE} names no folder with KubeRay's definitions")
    return os.environ[CRDS_VARIABLE]


@pytest.fixture
def validate(tmp_path: Path, request: pytest.FixtureRequest) -> Validate:
    """Check a file, or a text; returns the problems without the file's name."""
    folder = request.getfixturevalue("crds") if "crds" in request.fixturenames else None

    def check(given: str | Path) -> list[str]:
        path = given
        if isinstance(given, str):
            path = tmp_path / "file.yaml"
            path.write_text(given)
        report = validate_file(str(path), lambda words: check_words(ROOT, words), folder)
        return [str(problem).removeprefix(f"{path}:") for problem in report.problems]

    return check


@pytest.fixture
def changed(validate: Validate) -> Changed:
    """Check a file of ours with one value changed: ``changed("kuberay/train.yaml", "spec.entrypoint", "ls")``.

    A value may be a function of the old one, or :data:`GONE`. Of several documents the first is meant.
    """

    def check(file: str, path: str, value: Any) -> list[str]:
        documents = list(yaml.load_all((CLUSTER / file).read_text(), _LOADER))
        documents[0] = _unshared(documents[0])
        steps: list[Any] = [quoted or (int(row) if row else key) for quoted, row, key in _STEP.findall(path)]
        place = documents[0]
        for step in steps[:-1]:
            if isinstance(place, dict):
                place.setdefault(step, {})
            place = place[step]
        if value is GONE:
            del place[steps[-1]]
        elif isinstance(place, list) and steps[-1] == len(place):
            place.append(value)
        else:
            place[steps[-1]] = value(place.get(steps[-1])) if callable(value) else value
        return validate(yaml.dump_all(documents, Dumper=_DUMPER, sort_keys=False, width=1000))

    return check


def _unshared(value: Any) -> Any:
    """Copy what aliases share, so that a change in one place is no change in another."""
    if isinstance(value, dict):
        return {key: _unshared(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_unshared(one) for one in value]
    return copy.copy(value)
