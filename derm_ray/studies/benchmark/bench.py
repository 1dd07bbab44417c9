"""All comparisons, one after the other."""

import logging
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from derm_ray import storage
from derm_ray.bundle import Bundle, load_bundle, seal_bundle
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.inference.engines.selection import make_engine
from derm_ray.models.zoo import CamConfig, NetworkConfig, build_network
from derm_ray.runtime import machine_cpus
from derm_ray.studies.benchmark.comparison import FULL, QUICK, Effort, Row
from derm_ray.studies.benchmark.computing import CPU, against_eager, against_matmul, engines_here
from derm_ray.studies.benchmark.decoding import scaled_decoding
from derm_ray.vocabulary import PAPER15

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """What was measured, and where."""

    machine: Mapping[str, Any]
    rows: Sequence[Row]

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"machine": dict(self.machine), "rows": [row.to_json() for row in self.rows]}


def run_benchmark(model_uri: str | None = None, *, only: Sequence[str] = (), quick: bool = False) -> Benchmark:
    """Measure this machine's CPUs.

    Args:
        model_uri: a bundle; ``None`` for the paper's Triple-Net with CAM-BP at 224 px, untrained.
        only: names of rows; all where there are none.
        quick: measure for a fifth of the time.

    Raises:
        ConfigError: a name is unknown.
        BundleError, StorageError: the bundle cannot be loaded.
    """
    torch.set_num_threads(machine_cpus())
    with _bundle(model_uri) as bundle:
        rows = _rows(bundle)
        for name in only:
            if name not in rows:
                raise ConfigError(unknown_name("row", name, tuple(rows)))
        measured = []
        for name in only or rows:
            logger.info("measuring %s", name)
            measured.append(rows[name](QUICK if quick else FULL))
    return Benchmark(describe_machine(), measured)


def _rows(bundle: Bundle) -> dict[str, Callable[[Effort], Row]]:
    types = {"torch": "gflops-fp32", "torch-bf16": "gflops-bf16"}
    return {
        **{types[name]: partial(against_matmul, bundle, name) for name in engines_here()},
        "engine": lambda effort: against_eager(bundle, make_engine(bundle, "auto", CPU), effort),
        "decoding": scaled_decoding,
    }


@contextmanager
def _bundle(model_uri: str | None) -> Iterator[Bundle]:
    if model_uri is not None:
        yield load_bundle(model_uri)
        return
    config = NetworkConfig("triple", "vgg16", "cam_bp", len(PAPER15.class_names), cam=CamConfig("googlenet", 15))
    with TemporaryDirectory() as folder:
        uri = storage.join(folder, "bundle")
        weights = build_network(config).state_dict()
        seal_bundle(
            uri, network=config, label_set=PAPER15, preprocessing=Preprocessing(), weights=weights, provenance={}
        )
        yield load_bundle(uri)


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cpu": _cpu_model(),
        "cores": machine_cpus(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "ray", "pillow")},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
