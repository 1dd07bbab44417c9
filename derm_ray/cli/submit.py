"""``derm-ray submit``."""

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from derm_ray.cli.jobs import JobsAddressOption, watch
from derm_ray.cli.options import JsonOption, emit

logger = logging.getLogger(__name__)

# The usage error of a command line: Typer exports only this class's children.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
# Options whose values are URIs.
_URI_OPTIONS = frozenset(
    {
        "--manifest",
        "--input",
        "--model",
        "--out",
        "--recipe",
        "--space",
        "--init-weights",
        "--cam",
        "--teacher",
        "--out-of-fold",
        "--cache",
        "--allow-prefix",
    }
)


def submit(
    context: typer.Context,
    command: Annotated[
        str, typer.Argument(help="Command: train, tune, evaluate, score or reproduce. Its arguments follow `--`.")
    ],
    address: JobsAddressOption = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Job id. Default: derived from the command and its arguments.")
    ] = None,
    package: Annotated[
        str | None,
        typer.Option(
            metavar="WHEEL",
            help="Wheel of derm_ray for the job. Default: the version in the cluster's image.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME=VALUE", help="Environment variable of the job, no secrets. Repeatable."),
    ] = None,
    wait: Annotated[
        bool,
        typer.Option(
            "--wait", help="Follow the job until it ends. Exit codes: 0 success, 2 invalid input, 1 any other failure."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a command on a cluster as a Ray Job: derm-ray submit score --address URL -- --model ... --input ...

    Submitting the same command again attaches to the job while it is pending or running, and reports it after it
    succeeded. After a failure or a stop it starts a new attempt, which resumes the work.
    """
    from derm_ray.submission.package import read_package
    from derm_ray.submission.request import JobRequest, parse_settings

    arguments = list(context.args)
    request = JobRequest(
        command,
        tuple(arguments),
        read_package(package) if package else None,
        parse_settings(settings or []),
        job_id,
    )
    check_arguments(context.find_root().command, command, arguments)

    from derm_ray.submission.cluster import Cluster

    cluster = Cluster(address)
    job, new = cluster.submit(request)
    had_run = not new and job.status == "SUCCEEDED"
    if wait and not job.over:
        job = watch(cluster, job.id, as_json=as_json)
    text = f"job {job.id}: {job.status}"
    if had_run:
        text += "; this command already ran. To run it again, give another --id"
    elif not job.over:
        text += f"\n  derm-ray jobs logs {job.id} --follow --address {cluster.address}"
    emit({"job": job.id, "status": job.status, "exit_code": job.exit_code, "new": new}, text, as_json=as_json)
    if wait and job.status != "SUCCEEDED":
        raise typer.Exit(2 if job.exit_code == 2 else 1)


def check_arguments(root: Any, command: str, arguments: Sequence[str]) -> None:
    """Check a job's arguments as its command will, and that their URIs can be read on a cluster.

    Args:
        root: the ``derm-ray`` command.
        command: name of the one that is submitted.
        arguments: of it.

    Raises:
        ConfigError: the command would refuse them, or a path is relative.
    """
    from derm_ray.errors import ConfigError
    from derm_ray.submission.request import check_uri

    target = root.commands[command]
    try:
        params: dict[str, Any] = target.make_context(f"derm-ray {command}", list(arguments)).params
    except _UsageError as error:
        raise ConfigError(f"derm-ray {command}: {error.format_message()}") from error  # type: ignore[attr-defined]
    if params.get("address") is not None:
        raise ConfigError("put --address before `--`: the job itself joins the cluster it runs on.")
    local: list[str] = []
    for param in target.params:
        option = next((name for name in param.opts if name in _URI_OPTIONS), None)
        values = params.get(str(param.name))
        if option is None or values is None:
            continue
        for value in values if isinstance(values, (list, tuple)) else [values]:
            head, separator, tail = str(value).partition("=")
            uri = tail if separator and "/" not in head else str(value)
            if check_uri(option, uri):
                local.append(uri)
    if local:
        logger.warning("%s: read on each node of the cluster, not on this machine.", ", ".join(dict.fromkeys(local)))
