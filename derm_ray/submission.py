"""Sending a command to a cluster as a Ray Job."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

from ray.job_submission import JobStatus, JobSubmissionClient

from derm_ray.errors import ConfigError, SubmissionError, unknown_name

COMMANDS = ("train", "evaluate", "score", "reproduce")


def submit(address: str, command: str, arguments: list[str], submission_id: str | None = None) -> str:
    """Submit ``derm-ray COMMAND ARGUMENTS --json``; the cluster's image holds derm_ray.

    Args:
        address: the cluster's jobs URL, such as ``http://head:8265``.
        command: one of :data:`COMMANDS`.
        arguments: as on the command line; URIs must be reachable from the cluster.
        submission_id: a name of the caller's choice; submitting it again while it exists is no new job.

    Returns:
        The job's id.

    Raises:
        ConfigError: the command is unknown, or no cluster answers.
        SubmissionError: the cluster did not take the job.
    """
    if command not in COMMANDS:
        raise ConfigError(unknown_name("command", command, COMMANDS))
    with _explained(address):
        client = JobSubmissionClient(address)
        if submission_id is not None and submission_id in {job.submission_id for job in client.list_jobs()}:
            return submission_id
        entrypoint = shlex.join(["derm-ray", command, *arguments, "--json"])
        return str(client.submit_job(entrypoint=entrypoint, submission_id=submission_id))


def follow(address: str, job_id: str) -> tuple[str, str]:
    """Return a job's status (``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED``, ``STOPPED``) and log so far.

    Raises:
        ConfigError: no cluster answers.
        SubmissionError: the cluster does not know the job.
    """
    with _explained(address):
        client = JobSubmissionClient(address)
        status: JobStatus = client.get_job_status(job_id)
        return str(status.value), str(client.get_job_logs(job_id))


@contextmanager
def _explained(address: str) -> Iterator[None]:
    try:
        yield
    except ConnectionError as error:
        raise ConfigError(
            f"{address}: no Ray cluster answers there ({str(error).splitlines()[0]}). "
            "Give the jobs URL, usually http://HEAD:8265."
        ) from error
    except RuntimeError as error:
        raise SubmissionError(
            f"{address}: the cluster did not take the request: {str(error).splitlines()[0]}"
        ) from error
