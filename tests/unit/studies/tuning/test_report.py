import csv
import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from derm_ray.errors import ConfigError, OutputExistsError
from derm_ray.studies.tuning.report import TrialRow, plot_png, ranked, table_csv, table_text
from derm_ray.studies.tuning.space import Range
from derm_ray.studies.tuning.study import _claim, _require_optuna, _Scheduler
from derm_ray.studies.tuning.trial import EPOCH, LAST

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
    assert plot_png(ranked(ROWS), space, "cross macro_auroc").startswith(b"\x89PNG")


def test_optuna_that_is_not_installed_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'derm-ray\[tune\]'"):
        _require_optuna()


def test_another_search_under_the_same_name_is_refused(tmp_path: Path) -> None:
    uri = str(tmp_path / "s")
    search = {"trials": 4, "space": {"optimizer": ("sgd", "adamw")}, "recipe": {"seed": 0}}
    _claim(uri, search)
    _claim(uri, search)
    with pytest.raises(
        OutputExistsError, match=r"another search: space\.optimizer was .* now \[\"sgd\"\]; trials was 4"
    ):
        _claim(uri, {**search, "trials": 5, "space": {"optimizer": ("sgd",)}})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.jpg").write_bytes(b"x")
    with pytest.raises(OutputExistsError, match="files that are not a search"):
        _claim(str(tmp_path / "other"), search)


def test_the_last_epoch_of_a_trial_is_never_stopped() -> None:
    scheduler = _Scheduler(time_attr=EPOCH, metric="score", mode="max", max_t=9, grace_period=1, reduction_factor=3)
    trials = [SimpleNamespace(trial_id=str(number), config={}, stub=True) for number in range(9)]
    for trial in trials:
        scheduler.on_trial_add(None, trial)
    for number, trial in enumerate(trials):
        result = {EPOCH: 1, "score": 1 - number / 10, LAST: number == 8}
        decision = scheduler.on_trial_result(None, trial, result)
        assert decision == (_Scheduler.CONTINUE if number in (0, 8) else _Scheduler.STOP) or number < 3
