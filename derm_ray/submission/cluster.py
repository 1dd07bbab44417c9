"""The jobs of a cluster, through Ray's ``JobSubmissionClient``."""

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
from ray.exceptions import AuthenticationError

from derm_ray import ray_internals
from derm_ray.cluster_auth import refuse_open_jobs
from derm_ray.credentials import find_credential
from derm_ray.errors import ConfigError, SubmissionError
from derm_ray.proxies import for_requests, proxy_for
from derm_ray.submission.request import JobRequest

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
STOP_TIMEOUT_S = 60.0
ANSWER_S = 120.0
"""Time limit of one answer."""
CONTACT_S = 60.0
"""How long a cluster that stopped answering is asked again about a job that is followed."""
_POLL_S = 0.5
_FOLLOW_S = 2.0
_OVER = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})


@dataclass(frozen=True)
class Job:
    """A job as its cluster reports it.

    Attributes:
        id: of the submission.
        status: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        command: what it runs.
        started, ended: seconds since 1970, where known.
        exit_code: of the command, once it ended by itself.
        message: the cluster's reason for its end.
        metadata: what was submitted with it.
    """

    id: str
    status: str
    command: str
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str
    metadata: dict[str, str]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in _OVER

    @property
    def seconds(self) -> float | None:
        """How long it ran, or has run so far."""
        return None if self.started is None else (self.ended or time.time()) - self.started

    def to_json(self) -> dict[str, Any]:
        """Return the job as a JSON value."""
        names = ("id", "status", "command", "started", "ended", "exit_code")
        return {name: getattr(self, name) for name in names} | {"seconds": self.seconds}


class Cluster:
    """A cluster's jobs server; methods that take a job's id raise :class:`ConfigError` where the server lacks it.

    Args:
        address: its URL; ``None`` takes ``RAY_API_SERVER_ADDRESS``, or this machine's.

    Raises:
        ConfigError: no cluster answers there, it refuses the token, or anyone can use it from another machine (see
            :mod:`derm_ray.cluster_auth`).
        SubmissionError: it answers, but not as a jobs server does.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
        if not self.address.startswith(("http://", "https://")):
            raise ConfigError(f"--address {self.address}: give the jobs URL, usually http://HEAD:8265.")
        if find_credential(self.address):
            raise ConfigError(
                "--address: holds a credential, which `ps` and messages would show. Give the URL without it, and the "
                "cluster's token by RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH."
            )
        for name in ray_internals.CHATTY_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with _explained(self.address), _only_address(self.address):
            self._client = ray_internals.jobs_client(self.address, ANSWER_S, for_requests(self.address))
        refuse_open_jobs(self.address.rstrip("/"))

    def jobs(self) -> list[Job]:
        """Return all submitted jobs, the latest first."""
        with _explained(self.address):
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or 0, reverse=True)

    def job(self, job_id: str) -> Job:
        """Return one job."""
        with _explained(self.address, job_id):
            return _job(self._client.get_job_info(job_id))

    def wait_for(self, job_id: str) -> Job:
        """Return a job that existed before; a cluster that does not answer is asked again for a while.

        Raises:
            SubmissionError: it still does not answer.
        """
        deadline = time.monotonic() + CONTACT_S
        while True:
            try:
                return _job(self._client.get_job_info(job_id))
            except AuthenticationError:
                return self.job(job_id)  # raises with the fix
            except (OSError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    raise SubmissionError(
                        f"{self.address}: lost contact with the cluster ({_last_line(error)}); the status of job "
                        f"{job_id} is unknown. It may still run, or be lost with the cluster's head. The same command "
                        "follows it, or resumes its work."
                    ) from error
                time.sleep(4 * _POLL_S)

    def log(self, job_id: str) -> str:
        """Return all that a job has printed so far."""
        with _explained(self.address, job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str) -> Iterator[str]:
        """Yield what a job prints, from its first line on, until it ends.

        Raises:
            SubmissionError: the cluster does not answer any more.
        """
        shown = 0
        self.job(job_id)
        while True:
            over, begun = self.wait_for(job_id).over, time.monotonic()
            try:
                text = self.log(job_id)
            except (ConfigError, SubmissionError):
                if over:
                    raise
                text = ""  # the next request for the status finds out whether the cluster answers
            if len(text) > shown:
                yield text[shown:]
                shown = len(text)
            if over:
                return
            time.sleep(max(_FOLLOW_S, 10 * (time.monotonic() - begun)))  # the longer a log, the less often

    def stop(self, job_id: str) -> Job:
        """Stop a job and wait for its end.

        Raises:
            SubmissionError: it does not end.
        """
        with _explained(self.address, job_id):
            self._client.stop_job(job_id)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not (job := self.job(job_id)).over:
            if time.monotonic() > deadline:
                raise SubmissionError(
                    f"job {job_id}: did not stop within {STOP_TIMEOUT_S:g} s. See `derm-ray jobs status {job_id}`."
                )
            time.sleep(_POLL_S)
        return job

    def submit(self, request: JobRequest) -> tuple[Job, bool]:
        """Submit a request unless it is pending, running or has succeeded already.

        A new attempt is started where the last one failed or was stopped; the command resumes its own work.

        Returns:
            The job, and whether this call created it.

        Raises:
            ConfigError: the id belongs to another request.
            SubmissionError: the cluster did not accept it.
        """
        while True:
            existing = {job.id: job for job in self.jobs()}
            number = 1
            while (job := existing.get(request.attempt(number))) is not None:
                if job.metadata.get("derm_ray_digest") != request.digest:
                    raise ConfigError(
                        f"job {job.id}: exists and runs another command ({job.command}). Give another --id."
                    )
                if job.status not in ("FAILED", "STOPPED"):
                    return job, False
                number += 1
            job_id = request.attempt(number)
            try:
                self._send(request, job_id)
            except SubmissionError as error:
                if "already exists" in str(error):
                    continue  # another process was quicker
                raise
            return self.job(job_id), True

    def _send(self, request: JobRequest, job_id: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            environment: dict[str, Any] = {"env_vars": request.variables}
            if request.package is not None:
                request.package.unpack(folder)
                environment["working_dir"] = folder
            with _explained(self.address):
                self._client.submit_job(
                    entrypoint=request.entrypoint,
                    submission_id=job_id,
                    runtime_env=environment,
                    metadata=request.metadata,
                )


def _job(details: Any) -> Job:
    return Job(
        id=str(details.submission_id),
        status=str(details.status.value),
        command=str(details.entrypoint),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
        message=str(details.message or ""),
        metadata=dict(details.metadata or {}),
    )


@contextmanager
def _only_address(address: str) -> Iterator[None]:
    """Keep Ray from preferring ``RAY_ADDRESS`` to the address it is given."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before


@contextmanager
def _explained(address: str, job_id: str | None = None) -> Iterator[None]:
    """Turn what Ray's client raises into one message."""
    try:
        yield
    except AuthenticationError as error:
        problem = "the cluster refuses this token" if "Invalid" in error.message else "the cluster requires a token"
        raise ConfigError(
            f"{address}: {problem}. Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file that holds the cluster's."
        ) from error
    except (requests.exceptions.InvalidHeader, UnicodeError) as error:
        raise ConfigError(
            f"{address}: the cluster's token contains characters that cannot be sent. Check RAY_AUTH_TOKEN, or the "
            "file that RAY_AUTH_TOKEN_PATH names."
        ) from error
    except OSError as error:  # also all that requests raises
        proxy = proxy_for(address, "socks")
        through = f" through {proxy}" if proxy else ""
        fix = f"; check {proxy.variable} and NO_PROXY" if proxy else ""
        raise ConfigError(
            f"{address}: no Ray cluster answers there{through} ({_last_line(error)}). "
            f"Give the jobs URL, usually http://HEAD:8265{fix}."
        ) from error
    except RuntimeError as error:
        if job_id is not None and "status code 404" in str(error):
            raise ConfigError(
                f"job {job_id}: not on the cluster at {address}. `derm-ray jobs list` shows those that are."
            ) from error
        raise SubmissionError(f"{address}: the cluster did not accept the request: {_last_line(error)}") from error


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip(" .")]
    return lines[-1].strip() if lines else type(error).__name__
