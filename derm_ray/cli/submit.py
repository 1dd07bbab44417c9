"""``derm-ray submit``."""

import time
from typing import Annotated

import typer

from derm_ray.cli.options import JsonOption, emit


def submit(
    context: typer.Context,
    command: Annotated[str, typer.Argument(help="train, evaluate, score or reproduce; its arguments follow.")],
    address: Annotated[str, typer.Option("--address", help="The cluster's jobs URL.")] = "http://127.0.0.1:8265",
    job_id: Annotated[
        str | None, typer.Option("--id", help="Name of the job; submitting it again is no new job.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for its end and print its log; exit code 1 unless it succeeded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a command on a cluster as a Ray Job: derm-ray submit score --address URL -- --model ... --input ..."""
    from derm_ray.submission import follow
    from derm_ray.submission import submit as send

    job = send(address, command, context.args, job_id)
    status, log = follow(address, job)
    while wait and status in ("PENDING", "RUNNING"):
        time.sleep(1)
        status, log = follow(address, job)
    emit({"job": job, "status": status}, f"{log}job {job}: {status}", as_json=as_json)
    if wait and status != "SUCCEEDED":
        raise typer.Exit(1)
