import json
from pathlib import Path

import pytest
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from derm_ray import __version__
from derm_ray.errors import OutputExistsError
from derm_ray.training.run.folder import INVOCATIONS, claim

RECIPE = {"manifest_digest": "m", "training": {"seed": 0}}


def test_a_resumed_run_keeps_its_id_and_notes_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(str(tmp_path / "run"), RECIPE, overwrite=False)
    assert first["jobs"] == []
    assert claim(str(tmp_path / "other"), RECIPE, overwrite=False)["run_id"] != first["run_id"]
    for job in ("nightly", "nightly.2"):
        described = {"runtime_env": {}, "metadata": {"job_submission_id": job, "job_name": job}}
        monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, json.dumps(described))
        resumed = claim(str(tmp_path / "run"), RECIPE, overwrite=False)
    versions = {"derm_ray_versions": [__version__]}
    assert resumed == {"run_id": first["run_id"], "jobs": ["nightly", "nightly.2"], **versions}
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {**resumed, **RECIPE}
    with pytest.raises(OutputExistsError, match=r"other settings: training\.seed was 0, now 1\. Use"):
        claim(str(tmp_path / "run"), {**RECIPE, "training": {"seed": 1}}, overwrite=False)
    assert claim(str(tmp_path / "run"), RECIPE, overwrite=True)["run_id"] != first["run_id"]


def test_overwriting_spares_the_lease_of_whoever_does_it(tmp_path: Path) -> None:
    claim(str(tmp_path / "run"), RECIPE, overwrite=False)
    (tmp_path / "run" / "checkpoint_epoch_0001").mkdir()
    (tmp_path / "run" / INVOCATIONS).mkdir()
    (tmp_path / "run" / INVOCATIONS / "000001.json").write_text("{}")
    claim(str(tmp_path / "run"), RECIPE, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", INVOCATIONS]
    assert (tmp_path / "run" / INVOCATIONS / "000001.json").exists()


def test_a_bug_fix_release_resumes_a_run_and_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = claim(str(tmp_path / "run"), RECIPE, overwrite=False)
    monkeypatch.setattr("derm_ray.training.run.folder.__version__", "99.0.1")
    for _ in range(2):
        resumed = claim(str(tmp_path / "run"), RECIPE, overwrite=False)
        assert resumed == {**first, "derm_ray_versions": [__version__, "99.0.1"]}


def test_a_config_without_an_id_is_refused_as_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(RECIPE))
    with pytest.raises(OutputExistsError, match=r"config\.json is not a training run's\. Choose another --name"):
        claim(str(tmp_path), RECIPE, overwrite=False)
