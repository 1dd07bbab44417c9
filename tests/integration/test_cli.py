"""The command as a user types it: quick help, and one clear message for every mistake."""

import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from derm_ray.cli import main
from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.runtime import machine_cpus
from tests.conftest import RunCommand, take


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


@pytest.fixture
def manifest(pairs: Manifest, tmp_path: Path) -> str:
    uri = str(tmp_path / "m.parquet")
    write_manifest(take(pairs.absolute(), 60), uri)
    return uri


def test_data_commands(derm_ray: RunCommand, tmp_path: Path) -> None:
    assert derm_ray("data", "synthesize", "--out", "set", "--pairs", "45").returncode == 0
    split = derm_ray("data", "split", "set/manifest.parquet", "--out", "m.csv", "--json")
    assert json.loads(split.stdout)["seed"] == 0
    described = derm_ray("data", "describe", "m.csv")
    assert "45 pairs, 45 lesions" in described.stdout
    assert "melanoma" in described.stdout
    valid = derm_ray("data", "validate", "m.csv", "--label-set", "paper15", "--training")
    assert valid.returncode == 0, valid.stderr


SCORE = ("--model", "s3://b/model", "--input", "s3://b/m.parquet", "--out", "s3://b/out")
TRAIN = ("train", "--manifest", "m.parquet", "--out", "runs", "--name", "r")


def _command(arguments: tuple[str, ...], folder: Path, out: Path, err: Path) -> None:
    for path, stream in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(folder)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    sys.argv = ["derm-ray", *arguments]
    main()


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> RunCommand:
    """Run the command in a process of its own that has its imports already: they take seconds each time."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["torch", "torchvision", "ray.data", "ray.train", "ray.serve", "pandas", "derm_ray.cli"]
    )

    # Starting a process polls the others, and of two threads that ask for one exit code, one gets 255.
    one_at_a_time = threading.Lock()

    def run(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        written = tmp_path_factory.mktemp("written")
        out, err = written / "out", written / "err"
        process = context.Process(target=_command, args=(arguments, folder, out, err))
        with one_at_a_time:
            process.start()
        multiprocessing.connection.wait([process.sentinel], 300)
        with one_at_a_time:
            process.join(0)
        assert process.exitcode is not None, arguments
        return subprocess.CompletedProcess(arguments, process.exitcode, out.read_text(), err.read_text())

    return run


def test_every_mistake_is_one_message_and_exit_code_2(
    forked: RunCommand, manifest: str, bundle_uri: str, tmp_path: Path, pairs: Manifest
) -> None:
    wrong = take(pairs.absolute(), 60)
    labels = wrong.column("diagnosis")
    write_manifest(wrong.with_column("diagnosis", ["melanome", *labels[1:]]), str(tmp_path / "wrong.parquet"))
    missing = wrong.with_column("clinical_uri", ["/nowhere/lost.jpg"] * 60)
    write_manifest(missing.with_column("split", ["test"] * 60), str(tmp_path / "missing.parquet"))
    altered = Path(shutil.copytree(bundle_uri, tmp_path / "altered"))
    weights = bytearray((altered / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(weights)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "holiday.jpg").write_bytes(b"x")

    cases: list[tuple[tuple[str, ...], str]] = [
        ((*TRAIN, "--preset", "papr"), "unknown preset 'papr'. Did you mean 'paper'?"),
        ((*TRAIN, "--preset", "debug", "--set", "epoch=1"), "Did you mean 'epochs'?"),
        (("train", "--manifest", "wrong.parquet", "--out", "runs", "--name", "r", "--preset", "debug"), "row 1: unknown"),
        (("train", "--manifest", "none.parquet", "--out", "runs", "--name", "r", "--preset", "debug"), "none.parquet: not found"),
        ((*TRAIN, "--preset", "cpu", "--init-weights", "w.safetensors"), "w.safetensors: not found"),
        (("evaluate", "--model", "altered", "--manifest", "m.parquet", "--out", "e"), "weights.safetensors was modified"),
        (("evaluate", "--model", bundle_uri, "--manifest", "missing.parquet", "--out", "e"), "lost.jpg: not found"),
        (("score", "--model", "nowhere", "--input", "m.parquet", "--out", "s"), "no bundle.json"),
        (("score", "--model", bundle_uri, "--input", "m.parquet", "--out", "full"), "not a scoring run"),
        (("score", "--model", bundle_uri, "--input", "m.parquet", "--out", "s", "--engine", "tensorrt"), "unknown engine"),
        (("serve", "--model", "altered"), "was modified"),
        (("data", "import", "milk10k", ".", "--out", "x.parquet"), "MILK10k_Training_Metadata.csv: not found"),
        (("data", "validate", "m.parquet", "--label-set", "paper5"), "Did you mean 'paper15'?"),
        (("serve", "--model", bundle_uri, "--host", "0.0.0.0"), "can be reached from other machines"),  # noqa: S104
        (("serve", "--model", bundle_uri, "--tokens", "m.parquet"), "not a text file"),
        (("token", "a b"), "letters, digits"),
        (("score-one", "--clinical", "a.jpg"), "give either --url"),
        (("score-one", "--model", bundle_uri), "Give --clinical"),
        (("score-one", "--model", bundle_uri, "--clinical", "m.parquet"), "m.parquet: not an image"),
        ((*TRAIN, "--preset", "debug", "--name", ".."), "--name '..': use letters"),
        ((*TRAIN, "--preset", "debug", "--address", "http://127.0.0.1:9"), "cannot join the Ray at"),
        ((*TRAIN, "--preset", "debug", "--gpu"), "this machine is too small: 1 GPUs, it has 0"),
        (("demo", "--out", "full"), "contains files that are not a demo"),
        (("submit", "score", "--address", "http://127.0.0.1:9", "--", *SCORE), "no Ray cluster answers there"),
        (("submit", "score", "--", *SCORE[:4], "--out", "here"), "--out here: relative to this folder"),
        (("submit", "score", "--", *SCORE, "--replica", "2"), "--replica"),
        (("jobs", "list", "--address", "http://127.0.0.1:9"), "no Ray cluster answers there"),
        (("score", "--model", bundle_uri, "--input", "nowhere", "--out", "o"), "nowhere: not found"),
        (("score", "--model", bundle_uri, "--input", "m.parquet", "--out", "s", "--format", "cvs"), "Did you mean 'csv'?"),
        (("score", "--model", bundle_uri, "--input", "m.parquet", "--out", "s", "--saliency"), "saliency needs a model"),
        (("verify", "full"), "_RUN.json: not found"),
        (("score", "--model", bundle_uri, "--input", "m.parquet", "--out", "s", "--engine", "openvino-int8"), "model quantize"),
        (("model", "quantize", bundle_uri, "--manifest", "missing.parquet"), "val"),
        (("bench", "--only", "bulks"), "Did you mean 'bulk'?"),
    ]  # fmt: skip
    with ThreadPoolExecutor(machine_cpus()) as threads:
        results = list(threads.map(lambda case: forked(*case[0], folder=tmp_path), cases))
    for (arguments, message), done in zip(cases, results, strict=True):
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert message in done.stderr, (arguments, done.stderr)
        picked, error, _ = done.stderr.partition("error: ")
        assert error, done.stderr
        assert all(line.startswith("engine ") or not line for line in picked.splitlines()), done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


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
