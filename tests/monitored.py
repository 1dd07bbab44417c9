"""A local Ray at work at all that derm_ray does on it, and what its metrics port shows meanwhile.

``python -m tests.monitored`` writes the names and labels of what it shows into ``tests/cluster/metrics.yaml``.
"""

import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import ray
import yaml
from prometheus_client.parser import text_string_to_metric_families

from derm_ray.data.manifest import Manifest
from derm_ray.data.splits import split_manifest
from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15
from derm_ray.runtime import ray_session
from derm_ray.scoring.pipeline import ScoringOptions, score
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.endpoint import endpoint
from derm_ray.storage import read_bytes
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train
from tests.cluster.queries import LIST, asked
from tests.conftest import take, unused_port
from tests.inputs import MemoryInput

EXPORTS_S = 15.0
"""Until all processes have exported what they counted, which they do every 10 s."""


def metrics_url() -> str:
    """Return where the one node of this Ray shows its metrics."""
    (node,) = (node for node in ray.nodes() if node["Alive"])
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


class Shown:
    """All samples that were shown at any time, each with its last value; gauges come and go."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.labels: dict[str, set[str]] = defaultdict(set)

    def look(self) -> None:
        """Scrape once."""
        for family in text_string_to_metric_families(httpx.get(metrics_url(), timeout=10).text):
            for sample in family.samples:
                self.samples[sample.name, frozenset(sample.labels.items())] = sample.value
                self.labels[sample.name] |= sample.labels.keys()

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over the series with these labels."""
        return sum(
            value
            for (one, has), value in self.samples.items()
            if one == f"ray_derm_ray_{name}" and labels.items() <= has
        )


@contextmanager
def watched() -> Iterator[Shown]:
    """Scrape each second while a block runs."""
    shown, ended = Shown(), threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            with suppress(httpx.HTTPError):
                shown.look()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield shown
    finally:
        ended.set()
        thread.join()


def make_pairs(folder: Path) -> Manifest:
    """480 synthetic pairs, enough of them in val that a model holds a reference for drift."""
    return split_manifest(synthesize(str(folder / "pairs"), 480, PAPER15), val_fraction=0.4).manifest


def work(manifest: Manifest, folder: Path) -> None:
    """Train, serve, score with and without decoders, each twice with two exports between, and lose a process."""
    config = make_config("debug", {"epochs": 2})
    use(train(config, manifest, str(folder / "runs"), "monitored", workers=2).bundle_uri, manifest, folder)


def use(model: str, manifest: Manifest, folder: Path) -> None:
    """Do the part of :func:`work` that takes a model."""
    pair = manifest.pairs()[0]
    photos = {"clinical": read_bytes(str(pair.clinical_uri)), "dermoscopy": read_bytes(str(pair.dermoscopy_uri))}
    with endpoint(ServeArguments(model=model, engine="torch"), port=unused_port()) as served:
        for half in ("first", "second"):
            for upload in (photos, photos, {"clinical": photos["clinical"]}, {"clinical": b"text"}):
                httpx.post(f"{served.url}/v1/score", files=upload, timeout=60)
            for decoders in (0, 1):
                options = ScoringOptions(replicas=1, decoders=decoders)
                source, out = MemoryInput(_with_a_missing_image(manifest)), str(folder / half / f"scores-{decoders}")
                score(model, source, out, engine="torch", shard_size=16, options=options)
            with suppress(ray.exceptions.WorkerCrashedError):
                ray.get(ray.remote(max_retries=0)(lambda: os._exit(1)).remote())
            time.sleep(EXPORTS_S)


def _with_a_missing_image(manifest: Manifest) -> Manifest:
    few = take(manifest, 48)
    uris = few.column("clinical_uri")
    return few.with_column("clinical_uri", [f"{uris[0]}.gone", *uris[1:]])


def main() -> None:
    """Write the list."""
    listed = yaml.safe_load(LIST.read_text()) if LIST.exists() else {"unseen": {}}
    with tempfile.TemporaryDirectory() as name, ray_session(num_cpus=4, local=True):
        manifest = make_pairs(Path(name))
        with watched() as shown:
            work(manifest, Path(name))
    own = {
        name: sorted(label for label in labels if not label.startswith("otel_"))
        for name, labels in shown.labels.items()
    }
    ours = {name: own[name] for name in sorted(own) if name in asked() or name.startswith("ray_derm_ray_")}
    unseen = {name: entry for name, entry in sorted(listed["unseen"].items()) if name not in ours}
    write(ours, unseen)


def write(seen: dict[str, list[str]], unseen: dict[str, dict[str, object]]) -> None:
    """Write the list, one line a metric."""
    lines = [
        "# Metric -> labels. Written by python -m tests.monitored: ours and those we ask for, of a scrape of Ray 2.60 at work,",
        "# and, by hand, those that take a GPU or a failure, each with where its source is.",
        "seen:",
        *(f"  {name}: [{', '.join(labels)}]" for name, labels in seen.items()),
        "unseen:",
    ]
    for name, entry in unseen.items():
        lines.append(f"  {name}: {{ labels: [{', '.join(entry['labels'])}], where: {entry['where']} }}")
    LIST.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
