"""The command as a user types it, in a process of its own; tests/unit/cli has its mistakes."""

import json
import statistics
import subprocess
import sys
import time

from tests.conftest import RunCommand


def test_help_is_quick_and_lists_the_commands(derm_ray: RunCommand) -> None:
    """Below half a second; on a machine on which Typer alone takes long, at most three times as long."""
    times: dict[str, list[float]] = {"help": [], "typer": []}
    for _ in range(5):
        started = time.perf_counter()
        done = derm_ray("--help")
        between = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import typer, rich.console"], check=True)
        times["help"].append(between - started)
        times["typer"].append(time.perf_counter() - between)
    assert statistics.median(times["help"]) < max(0.5, 3 * statistics.median(times["typer"]))
    for command in (
        "demo",
        "data",
        "train",
        "evaluate",
        "score",
        "serve",
        "model",
        "reproduce",
        "submit",
        "jobs",
        "verify",
        "doctor",
    ):
        assert command in done.stdout


def test_data_commands(derm_ray: RunCommand) -> None:
    assert derm_ray("data", "synthesize", "--out", "set", "--pairs", "45").returncode == 0
    split = derm_ray("data", "split", "set/manifest.parquet", "--out", "m.csv", "--json")
    assert json.loads(split.stdout)["seed"] == 0
    described = derm_ray("data", "describe", "m.csv")
    assert "45 pairs, 45 lesions" in described.stdout
    assert "melanoma" in described.stdout
    valid = derm_ray("data", "validate", "m.csv", "--label-set", "paper15", "--training")
    assert valid.returncode == 0, valid.stderr


def test_an_unreachable_bucket_is_one_message(derm_ray: RunCommand) -> None:
    started = time.perf_counter()
    done = derm_ray(
        "data", "describe", "s3://bucket/m.parquet",
        AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x",
    )  # fmt: skip
    assert done.returncode == 2
    assert "s3://bucket/m.parquet: storage unreachable" in done.stderr
    assert "AWS_ENDPOINT_URL" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.perf_counter() - started < 30


def test_model_commands(derm_ray: RunCommand, bundle_uri: str) -> None:
    assert "valid, model" in derm_ray("model", "verify", bundle_uri).stdout
    assert json.loads(derm_ray("model", "show", bundle_uri, "--json").stdout)["label_set"] == "paper15"
    assert "not a medical device" in derm_ray("model", "show", bundle_uri).stdout


def test_a_ray_that_does_not_start_is_one_message() -> None:
    code = "from derm_ray.runtime import ray_session\nwith ray_session(num_cpus=-1, local=True): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert "WorkError: no Ray could be started on this machine: Resource quantities" in done.stderr
