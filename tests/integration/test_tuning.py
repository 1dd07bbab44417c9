"""A search by its command: stopped, resumed, and asked again when all is done."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.training.config import make_config
from derm_ray.training.recipe import make_recipe
from tests.conftest import INTERRUPTIBLE, take

pytestmark = [pytest.mark.slow]

SPACE = "learning_rate: {min: 1e-3, max: 1e-1, log: true}\noptimizer: [sgd, adamw]\n"
COMMAND = (
    "tune --manifest m.parquet --space space.yaml --out s --name a --preset debug --set size=32 --set epochs=2 "
    "--trials 3 --json"
)


def test_a_search_is_resumed_and_writes_the_best_recipe(pairs: Manifest, tmp_path: Path) -> None:
    manifest = take(pairs, 60).absolute().with_column("split", ["train"] * 40 + ["val"] * 20)
    write_manifest(manifest, str(tmp_path / "m.parquet"))
    (tmp_path / "space.yaml").write_text(SPACE)
    command = [*INTERRUPTIBLE, *COMMAND.split()]

    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as stopped:
        assert stopped.stderr is not None
        begun = next(line for line in stopped.stderr if "  epoch 1  score " in line).split()[1]
        stopped.send_signal(signal.SIGINT)
        assert "stopped; the same command resumes." in stopped.stderr.read()
    assert stopped.returncode == 130
    assert not (tmp_path / "s" / "a" / "best.yaml").exists()

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    trials = found["trials"]
    assert len(trials) == 3
    assert begun in {trial["trial"] for trial in trials}
    assert trials[0]["state"] == "finished"
    assert all(trial["epochs"] == 2 for trial in trials if trial["state"] == "finished")
    assert {trial["state"] for trial in trials} <= {"finished", "stopped"}, done.stderr
    drawn = {name: trials[0][name] for name in ("learning_rate", "optimizer")}
    best = make_recipe(None, found["best"], [])
    assert best == make_config("debug", {"size": 32, "epochs": 2, **drawn})
    assert Path(found["table"]).read_text().count("\n") == 4
    assert Path(found["plot"]).read_bytes().startswith(b"\x89PNG")
    run = Path(trials[0]["run"])
    assert json.loads((run / "config.json").read_text())["training"] == best.to_json()
    assert (run / "bundle" / "bundle.json").exists()

    history = (run / "metrics.jsonl").read_bytes()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert json.loads(again.stdout)["trials"] == trials
    assert (run / "metrics.jsonl").read_bytes() == history

    more = subprocess.run([*command, "--trials", "4"], cwd=tmp_path, capture_output=True, text=True)
    assert more.returncode == 2
    assert more.stderr.splitlines()[-1].startswith("error: ")
    assert "contains another search: trials was 3, now 4." in more.stderr
