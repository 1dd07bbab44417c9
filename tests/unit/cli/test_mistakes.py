"""Every mistake is one message and exit code 2."""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from derm_ray.cli import main
from derm_ray.data.manifest import Manifest, write_manifest
from tests.conftest import take


@pytest.fixture(scope="module")
def folder(pairs: Manifest, bundle_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Manifests and models, of which some are wrong."""
    folder = tmp_path_factory.mktemp("mistakes")
    good = take(pairs.absolute(), 60)
    write_manifest(good, str(folder / "m.parquet"))
    wrong = good.with_column("diagnosis", ["melanome", *good.column("diagnosis")[1:]])
    write_manifest(wrong, str(folder / "wrong.parquet"))
    missing = good.with_column("clinical_uri", ["/nowhere/lost.jpg"] * 60)
    write_manifest(missing.with_column("split", ["test"] * 60), str(folder / "missing.parquet"))
    shutil.copytree(bundle_uri, folder / "bundle")
    altered = Path(shutil.copytree(bundle_uri, folder / "altered"))
    weights = bytearray((altered / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (altered / "weights.safetensors").write_bytes(weights)
    (folder / "full").mkdir()
    (folder / "full" / "holiday.jpg").write_bytes(b"x")
    return folder


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what the command changes of the process, which is its own otherwise."""
    logger, environment = logging.getLogger("derm_ray"), dict(os.environ)
    before = logger.handlers[:], logger.level, logger.propagate
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]


SCORE = "--model s3://b/model --input s3://b/m.parquet --out s3://b/out"
TRAIN = "train --manifest m.parquet --out runs --name r"
BULK = "score --model bundle --input m.parquet --out"
NOBODY = "--address http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (f"{TRAIN} --preset papr", "unknown preset 'papr'. Did you mean 'paper'?"),
        (f"{TRAIN} --preset debug --set epoch=1", "Did you mean 'epochs'?"),
        (f"{TRAIN} --recipe none.yaml", "none.yaml: not found"),
        (f"{TRAIN} --recipe m.parquet", "m.parquet: not a YAML file"),
        ("train --manifest wrong.parquet --out runs --name r --preset debug", "row 1: unknown"),
        ("train --manifest none.parquet --out runs --name r --preset debug", "none.parquet: not found"),
        (f"{TRAIN} --preset cpu --init-weights w.safetensors", "w.safetensors: not found"),
        (f"{TRAIN} --preset debug --name ..", "--name '..': use letters"),
        ("evaluate --model altered --manifest m.parquet --out e", "weights.safetensors was modified"),
        ("score --model full --input m.parquet --out s", "full contains no bundle (no bundle.json)"),
        ("evaluate --model bundle --manifest m.parquet --out e --split tset", "unknown split 'tset'. Did you mean 'test'?"),
        ("evaluate --model bundle --manifest missing.parquet --out e", "lost.jpg: not found"),
        ("score --model nowhere --input m.parquet --out s", "nowhere does not exist. Give the folder `bundle` of a finished"),
        ("score --model bundle --input nowhere --out o", "nowhere: not found"),
        (f"{BULK} full", "not a scoring run"),
        (f"{BULK} s --engine tensorrt", "unknown engine"),
        (f"{BULK} s --engine openvino-int8", "model quantize"),
        (f"{BULK} s --format cvs", "Did you mean 'csv'?"),
        (f"{BULK} s --clinical {{lesion}}.jpg", "is a manifest, which lists its images"),
        (f"{BULK} s --saliency", "saliency needs a model"),
        ("verify full", "full: no scoring run there (no _RUN.json). Give the --out folder of `derm-ray score`."),
        ("serve --model altered", "was modified"),
        ("serve --model bundle --host 0.0.0.0", "can be reached from other machines"),
        ("serve --model bundle --tokens m.parquet", "not a text file"),
        ("serve --model bundle --replicas 2 --max-replicas 1", "--max-replicas 1 is below --replicas 2"),
        ("token a.b/c", "letters, digits"),
        ("score-one --clinical a.jpg", "give either --url"),
        ("score-one --model bundle", "Give --clinical"),
        ("score-one --model bundle --clinical m.parquet", "m.parquet: not an image"),
        ("data import milk10k . --out x.parquet", "MILK10k_Training_Metadata.csv: not found"),
        ("data validate m.parquet --label-set paper5", "Did you mean 'paper15'?"),
        ("model quantize bundle --manifest missing.parquet", "val"),
        ("demo --out full", "contains files that are not a demo"),
        ("bench --only bulks", "Did you mean 'bulk'?"),
        (f"submit score {NOBODY} -- {SCORE}", "no Ray cluster answers there"),
        ("submit score -- --model s3://b/model --input s3://b/m.parquet --out here", "--out here: relative to this folder"),
        (f"submit score -- {SCORE} --replica 2", "--replica"),
        (f"jobs list {NOBODY}", "no Ray cluster answers there"),
    ],
    ids=lambda value: value.replace("/", "_"),
)  # fmt: skip
@pytest.mark.usefixtures("own_process")
def test_a_mistake_is_one_message_and_exit_code_2(
    command: str,
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["derm-ray", *command.split()])
    with pytest.raises(SystemExit) as end:
        main()
    printed = capsys.readouterr()
    assert end.value.code == 2, printed.err
    picked, error, told = printed.err.partition("error: ")
    assert error, printed.err
    assert message in told
    assert all(line.startswith("engine ") or not line for line in picked.splitlines()), printed.err
    assert printed.out == ""
