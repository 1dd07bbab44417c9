"""What training runs of the rehearsal leave in the storage, and when."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import boto3
from botocore.exceptions import ClientError

from tests.rehearsal.conftest import BUCKET, Rehearsal, wait_for


class Run:
    """A training run as a job, and the time at which each of its epochs was seen to be saved.

    Args:
        cluster: where.
        name: of the run.
        options: of ``derm-ray train`` beside the recipe.
    """

    def __init__(self, cluster: Rehearsal, name: str, options: str = "--workers 2 --cpus-per-worker 2") -> None:
        self.cluster = cluster
        self.name = name
        self.script = (
            "derm-ray submit train --address http://127.0.0.1:8265 --wait -- --manifest $BUCKET/pairs/manifest.parquet "
            f"--out $BUCKET/runs --name {name} --preset debug --set size=192 --set epochs=4 --set precision=fp32 "
            f"--set freeze_batch_norm=true --set monitor=accuracy {options}"
        )
        self.epochs: dict[int, float] = {}
        self._job: subprocess.Popen[bytes] | None = None
        self._storage = boto3.client(
            "s3",
            endpoint_url=cluster.environment["AWS_ENDPOINT_URL"],
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )

    @contextmanager
    def begun(self) -> Iterator["Run"]:
        """Run the block while the job runs; the job has to succeed."""
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(ended,))
        with self.cluster.begin(self.script, self.name) as process:
            self._job = process
            watcher.start()
            try:
                yield self
                assert process.wait(900) == 0, self.cluster.log(self.name)
            finally:
                ended.set()
                watcher.join()
                if process.poll() is None:
                    process.kill()

    def wait_for(self, condition: Callable[[], object], what: str, timeout_s: float = 300) -> float:
        """As the function of this name, and fail at once where the job ends first."""

        def holds() -> object:
            over = self._job is not None and self._job.poll() is not None
            found = condition()
            assert found or not over, f"it ended before {what}: {self.said()}"
            return found

        return wait_for(holds, what, timeout_s)

    def _watch(self, ended: threading.Event) -> None:
        while True:
            last = ended.wait(0.25)
            now = time.time()
            for line in self.lines():
                if "step" not in line:
                    self.epochs.setdefault(line["epoch"], now)
            if last:
                return

    def lines(self) -> list[dict[str, float]]:
        """The lines of its metrics.jsonl."""
        try:
            body = self._storage.get_object(Bucket=BUCKET, Key=f"runs/{self.name}/metrics.jsonl")["Body"].read()
        except ClientError:
            return []
        return [json.loads(line) for line in body.splitlines()]

    def losses(self) -> list[float]:
        """The loss of every step."""
        return [line["loss"] for line in self.lines() if "step" in line]

    def workers(self) -> list[int]:
        """How many workers ran each epoch."""
        return [int(line["workers"]) for line in self.lines() if "step" not in line]

    def delay_s(self, epoch: int) -> float:
        """How much later than the epoch before it an epoch was saved, beyond what the quickest one took."""
        return self.epochs[epoch] - self.epochs[epoch - 1] - self.epoch_s()

    def epoch_s(self) -> float:
        """Seconds of the quickest epoch."""
        times = [self.epochs[number] for number in sorted(self.epochs)]
        return min(after - before for before, after in pairwise(times))

    def said(self) -> str:
        """The job's log so far."""
        return self.cluster.log(self.name)
