"""A submitted command line is checked as its command will check it, on this machine."""

import logging

import pytest
import typer.main

from derm_ray.cli import app
from derm_ray.cli.submit import check_arguments
from derm_ray.errors import ConfigError

ROOT = typer.main.get_command(app)
EVALUATE = ("--model", "s3://b/model", "--manifest", "s3://b/m.parquet", "--out", "s3://b/out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*EVALUATE, "--modle", "x"), "No such option: --modle"),
        (EVALUATE[:4], "Missing"),
        ((*EVALUATE, "--split", "tst"), "unknown split 'tst'. Did you mean 'test'?"),
        ((*EVALUATE[:4], "--out", "evaluation"), "--out evaluation: relative to this folder"),
        ((*EVALUATE, "--address", "auto"), "put --address before"),
    ],
)
def test_what_the_command_would_refuse_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_arguments(ROOT, "evaluate", arguments)


def test_weights_of_a_trunk_are_a_place_as_well() -> None:
    study = ("--manifest", "s3://b/m", "--out", "s3://b/o")
    check_arguments(ROOT, "reproduce", (*study, "--init-weights", "resnet50=s3://b/w"))
    with pytest.raises(ConfigError, match=r"--init-weights weights/r.st: relative"):
        check_arguments(ROOT, "reproduce", (*study, "--init-weights", "resnet50=weights/r.st"))


def test_a_path_of_the_nodes_is_pointed_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("derm_ray"), "propagate", False)
    monkeypatch.setattr(logging.getLogger("derm_ray"), "handlers", [caplog.handler])
    check_arguments(ROOT, "evaluate", EVALUATE)
    assert caplog.text == ""
    check_arguments(ROOT, "evaluate", (*EVALUATE[:4], "--out", "/mnt/out"))
    assert "/mnt/out: read on each node of the cluster" in caplog.text
