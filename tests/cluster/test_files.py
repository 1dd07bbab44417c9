"""The cluster files say the same versions and commands as the code."""

import re
import shlex
from importlib.metadata import version
from pathlib import Path

import typer.main
import yaml

from derm_ray import __version__
from derm_ray.cli import app

ROOT = Path(__file__).parents[2]


def test_image_manifest_and_installation_name_one_ray() -> None:
    job = yaml.safe_load((ROOT / "cluster/kuberay/train.yaml").read_text())
    base = re.search(r"^FROM rayproject/ray:([\d.]+)", (ROOT / "cluster/Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    assert base[1] == job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")
    assert f"ray=={version('ray')}" in (ROOT / "constraints.txt").read_text().splitlines()
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        for container in group["template"]["spec"]["containers"]:
            assert container["image"].endswith(f":{__version__}")


def test_the_jobs_command_is_one_the_cli_has() -> None:
    job = yaml.safe_load((ROOT / "cluster/kuberay/train.yaml").read_text())
    python, flag, module, *arguments = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag) == ("python", "-m")
    name = module.removeprefix("jobs.")
    assert (ROOT / "jobs" / f"{name}.py").exists()
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, [*arguments, "--json"], resilient_parsing=False)
    assert context.params["preset"] == "paper"
    assert context.params["workers"] == 2
