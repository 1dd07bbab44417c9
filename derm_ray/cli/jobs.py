"""``derm-ray jobs``: jobs of a cluster."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray.cli.options import JsonOption, emit
from derm_ray.observability import format_duration

if TYPE_CHECKING:
    from derm_ray.submission.cluster import Cluster, Job

app = typer.Typer(help="List, watch and stop the jobs of a cluster.", no_args_is_help=True)

JobsAddressOption = Annotated[
    str | None,
    typer.Option(
        "--address", help="Jobs URL of the cluster. Default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265."
    ),
]
_JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="Id of the job.")]


@app.command("list")
def list_jobs(address: JobsAddressOption = None, as_json: JsonOption = False) -> None:
    """List all jobs of a cluster, newest first."""
    from derm_ray.submission.cluster import Cluster

    jobs = Cluster(address).jobs()
    width = max([len(job.id) for job in jobs] + [2])
    lines = [f"{'id':<{width}}  {'status':<9}  {'started':<19}  {'duration':<8}  command"]
    lines += [
        f"{job.id:<{width}}  {job.status:<9}  {_started(job):<19}  {_duration(job):<8}  {job.command}" for job in jobs
    ]
    emit({"jobs": [job.to_json() for job in jobs]}, "\n".join(lines), as_json=as_json)


@app.command("status")
def status(job_id: _JobArgument, address: JobsAddressOption = None, as_json: JsonOption = False) -> None:
    """Show one job."""
    from derm_ray.submission.cluster import Cluster

    job = Cluster(address).job(job_id)
    lines = [f"job {job.id}: {job.status}", f"started {_started(job)}, {_duration(job)}", job.command]
    if job.exit_code is not None:
        lines[0] += f", exit code {job.exit_code}"
    elif job.message:
        lines.append(job.message)
    emit(job.to_json(), "\n".join(lines), as_json=as_json)


@app.command("logs")
def logs(
    job_id: _JobArgument,
    address: JobsAddressOption = None,
    follow: Annotated[bool, typer.Option("--follow", help="Follow the log until the job ends.")] = False,
) -> None:
    """Print a job's log."""
    from derm_ray.submission.cluster import Cluster

    cluster = Cluster(address)
    if follow:
        watch(cluster, job_id)
    else:
        typer.echo(cluster.log(job_id), nl=False)


@app.command("stop")
def stop(job_id: _JobArgument, address: JobsAddressOption = None, as_json: JsonOption = False) -> None:
    """Stop a job and wait until it has ended. Submitting the same command again resumes it."""
    from derm_ray.submission.cluster import Cluster

    cluster = Cluster(address)
    before = cluster.job(job_id)
    job = before if before.over else cluster.stop(job_id)
    text = f"job {job.id}: already ended, {job.status}" if before.over else f"job {job.id}: {job.status}"
    emit(job.to_json(), text, as_json=as_json)


def watch(cluster: "Cluster", job_id: str, *, as_json: bool = False) -> "Job":
    """Print a job's log until the job ends; Ctrl-C leaves the job running.

    Args:
        cluster: where it runs.
        job_id: of the job.
        as_json: print to standard error, since standard output is for one JSON line.

    Returns:
        The ended job.
    """
    try:
        shown = False
        for text in cluster.follow(job_id):
            typer.echo(text, nl=False, err=as_json)
            shown = True
        job = cluster.wait_for(job_id)
    except KeyboardInterrupt:
        typer.echo(
            f"\njob {job_id} is still running. To stop it: derm-ray jobs stop {job_id} --address {cluster.address}",
            err=True,
        )
        raise typer.Exit(130) from None
    if job.status == "FAILED":
        if not shown or job.exit_code is None:
            typer.echo(job.message, err=True)
        if "No module named derm_ray" in job.message:
            typer.echo(
                "error: the cluster's image does not include derm_ray. Submit with --package WHEEL, or use an image "
                "that includes it.",
                err=True,
            )
    return job


def _started(job: "Job") -> str:
    return "" if job.started is None else datetime.fromtimestamp(job.started).isoformat(" ", "seconds")


def _duration(job: "Job") -> str:
    return "" if job.seconds is None else format_duration(job.seconds)
