"""``derm-ray cluster``: the files that make a cluster."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from derm_ray.cli.options import JsonOption, emit, printable
from derm_ray.cli.submit import check_arguments

app = typer.Typer(help="Check cluster files before they are applied.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `validate` a command of its own: Typer makes one command alone the whole group."""


@app.command()
def validate(
    context: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(help="Files for KubeRay, Kubernetes, Ray Serve, `ray up` or Prometheus' rules."),
    ],
    crds: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            envvar="DERM_RAY_KUBERAY_CRDS",
            help="Definitions of custom resources, such as KubeRay's ray.io_*.yaml.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check cluster files: fields, versions, commands, Serve configs, rules and security; reports all problems at once.

    Fields of Kubernetes' own objects are checked by its published schemas, those of KubeRay's by --crds, and Prometheus
    rules by promtool where it is installed. What could not be checked is reported.
    """
    from derm_ray.operations.cluster.validation import validate_file

    check = partial(check_words, context.find_root().command)
    reports = [validate_file(file, check, crds) for file in files]
    lines = [line for report in reports for line in report.lines]
    count = sum(len(report.problems) for report in reports)
    emit(
        {"problems": count, "files": [asdict(report) for report in reports]},
        printable("\n".join(lines)),
        as_json=as_json,
    )
    if count:
        raise typer.Exit(2)


def check_words(root: Any, words: Sequence[str]) -> None:
    """Check the words after ``derm-ray``."""
    from derm_ray.errors import ConfigError, unknown_name

    if "--help" in words:
        raise ConfigError("--help runs nothing; remove it")
    group = root
    for count, word in enumerate(words, 1):
        if word not in group.commands:
            raise ConfigError(unknown_name("command", word, tuple(group.commands)))
        if not hasattr(group.commands[word], "commands"):
            check_arguments(group, word, words[count:])
            return
        group = group.commands[word]
    raise ConfigError("the command is missing; write derm-ray COMMAND ARGUMENTS")
