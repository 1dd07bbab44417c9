"""A search on a real Ray: trials that are stopped, a search that goes on, and a recipe that trains."""

import json
from pathlib import Path

import pytest
import ray

from derm_ray.data.manifest import Manifest
from derm_ray.errors import OutputExistsError
from derm_ray.studies.tuning import study
from derm_ray.studies.tuning.space import Range
from derm_ray.studies.tuning.study import search
from derm_ray.training.config import make_config
from derm_ray.training.recipe import make_recipe
from tests.conftest import take

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = {"learning_rate": Range(1e-3, 1e-1, True), "optimizer": ("sgd", "adamw")}


@pytest.mark.filterwarnings("default")  # Ray Tune's own
def test_a_search_stops_trials_goes_on_and_writes_the_best_recipe(
    ray_local: None, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = take(pairs, 60).absolute().with_column("split", ["train"] * 40 + ["val"] * 20)
    config = make_config("debug", {"size": 32, "epochs": 3})
    out = str(tmp_path)

    class Stop(BaseException):
        pass

    def stop(self: object, iteration: int, trials: list[object], trial: object, **_: object) -> None:
        raise Stop

    with monkeypatch.context() as patched:  # the first trial's end ends the command
        patched.setattr(study._Lines, "on_trial_complete", stop)
        with pytest.raises(Stop):
            search(config, SPACE, manifest, out, "s", trials=4)
    begun = {path.name for path in (tmp_path / "s" / "runs").iterdir()}
    assert begun
    assert not (tmp_path / "s" / "best.yaml").exists()

    with pytest.raises(OutputExistsError, match=r"another search: trials was 4, now 5"):
        search(config, SPACE, manifest, out, "s", trials=5)
    with pytest.raises(OutputExistsError, match=r"another search: .*space\.optimizer was \[\"sgd\", \"adamw\"\]"):
        search(config, {**SPACE, "optimizer": ("sgd", "sgd")}, manifest, out, "s", trials=4)

    found = search(config, SPACE, manifest, out, "s", trials=4)
    assert len(found.trials) == 4
    assert found.trials[0].state == "finished"
    assert {row.state for row in found.trials} <= {"finished", "stopped"}
    assert all(1 <= len(row.scores) <= 3 for row in found.trials)
    assert all(len(row.scores) == 3 for row in found.trials if row.state == "finished")
    best = make_recipe(None, found.best_uri, [])
    assert best == found.best
    assert {name: getattr(best, name) for name in SPACE} == dict(found.trials[0].settings)
    assert (tmp_path / "s" / "trials.csv").read_text().count("\n") == 5
    assert (tmp_path / "s" / "trials.png").read_bytes().startswith(b"\x89PNG")
    recorded = json.loads((tmp_path / "s" / "runs" / found.trials[0].name / "config.json").read_text())
    assert recorded["training"] == best.to_json()

    runs = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s" / "runs").glob("*/metrics.jsonl")}
    again = search(config, SPACE, manifest, out, "s", trials=4)
    assert [row.name for row in again.trials] == [row.name for row in found.trials]
    assert runs == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s" / "runs").glob("*/metrics.jsonl")}
    assert ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
