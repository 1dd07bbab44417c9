import csv
import io
import math
import sys

import pytest

from derm_ray.errors import ConfigError
from derm_ray.studies.tuning.report import TrialRow, plot_png, ranked, table_csv, table_text
from derm_ray.studies.tuning.space import Range
from derm_ray.studies.tuning.study import _require_optuna
from derm_ray.training.config import make_config

NAN = math.nan


def row(name: str, state: str, *scores: float, rate: float = 1e-3, problem: str | None = None) -> TrialRow:
    settings = {"learning_rate": rate, "optimizer": "sgd", "tap": None}
    return TrialRow(name, state, settings, tuple(enumerate(scores, 1)), f"/s/runs/{name}", problem)


ROWS = [
    row("failed", "failed", problem="the loss became nan"),
    row("stopped", "stopped", 0.9),
    row("worse", "finished", 0.5, 0.6),
    row("undefined", "finished", NAN, NAN),
    row("best", "finished", 0.4, 0.7, 0.7, rate=0.0123456),
]


def test_the_best_is_one_that_trained_to_its_end() -> None:
    found = ranked(ROWS)
    assert [one.name for one in found] == ["best", "worse", "undefined", "stopped", "failed"]
    assert found[0].best == (2, 0.7)
    assert found[2].best[0] is None


def test_the_table_has_every_trial() -> None:
    found = ranked(ROWS)
    read = list(csv.DictReader(io.StringIO(table_csv(found))))
    assert [line["trial"] for line in read] == ["best", "worse", "undefined", "stopped", "failed"]
    assert (read[0]["score"], read[0]["best_epoch"], read[0]["learning_rate"]) == ("0.7", "2", "0.0123456")
    assert (read[2]["score"], read[4]["problem"]) == ("", "the loss became nan")
    text = table_text(found, "macro_auroc").splitlines()
    assert text[0].split() == ["trial", "state", "macro_auroc", "epoch", "learning_rate", "optimizer", "tap"]
    assert text[1].split() == ["best", "finished", "0.7000", "2/3", "0.01235", "sgd", "none"]
    assert text[-1] == "failed: the loss became nan"


def test_the_plot_is_a_picture() -> None:
    space = {"learning_rate": Range(1e-4, 1e-1, True), "optimizer": ("sgd", "adamw"), "tap": (None, "stage2")}
    assert plot_png(ranked(ROWS), space, make_config("debug")).startswith(b"\x89PNG")


def test_optuna_that_is_not_installed_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'derm-ray\[tune\]'"):
        _require_optuna()
