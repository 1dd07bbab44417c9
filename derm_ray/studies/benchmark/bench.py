"""All comparisons, one after the other."""

import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from derm_ray.bundle import Bundle
from derm_ray.errors import ConfigError, DermRayError, unknown_name
from derm_ray.inference.engines.selection import resolve_engine
from derm_ray.runtime import machine_cpus
from derm_ray.studies.benchmark import COMPARISONS
from derm_ray.studies.benchmark.comparison import FULL, QUICK, Effort, Row
from derm_ray.studies.benchmark.computing import (
    CPU,
    against_channels_last,
    against_eager,
    against_matmul,
    scaled_decoding,
    torch_engines_here,
)
from derm_ray.studies.benchmark.materials import benchmark_bundle
from derm_ray.studies.benchmark.scoring import against_plain_loop, cost_at_scale
from derm_ray.studies.benchmark.training import data_parallel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """Results of a benchmark with the machine; ``failures`` are comparisons that failed, each with the reason."""

    machine: Mapping[str, Any]
    rows: Sequence[Row]
    failures: Mapping[str, str]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        rows = [row.to_json() for row in self.rows]
        return {
            "machine": dict(self.machine),
            "rows": rows,
            "failures": dict(self.failures),
            "seconds": round(self.seconds, 1),
        }


_MEASURES: Mapping[str, Callable[[Bundle, str, Effort], list[Row]]] = {
    "gflops": lambda bundle, _, effort: [against_matmul(bundle, eager, effort) for eager in torch_engines_here()],
    "int8": lambda bundle, _, effort: [against_channels_last(bundle, effort)],
    "engine": lambda bundle, engine, effort: [against_eager(bundle, engine, effort)],
    "decoding": lambda _bundle, _engine, effort: [scaled_decoding(effort)],
    "bulk": against_plain_loop,
    "training": lambda _bundle, _engine, effort: data_parallel(effort),
    "scale": lambda _bundle, _engine, effort: [cost_at_scale(effort)],
}
"""By the names of :data:`derm_ray.studies.benchmark.COMPARISONS`."""


def run_benchmark(model_uri: str | None = None, *, only: Sequence[str] = (), quick: bool = False) -> Benchmark:
    """Measure this machine's CPUs with a model; see :func:`derm_ray.studies.benchmark.materials.benchmark_bundle`.

    ``only`` names comparisons, by default all; ``quick`` measures for a fifth of the time.

    Raises:
        ConfigError: a name is unknown.
        BundleError, StorageError: the bundle cannot be loaded.
    """
    unknown = [name for name in only if name not in COMPARISONS]
    if unknown:
        raise ConfigError(unknown_name("comparison", unknown[0], COMPARISONS))
    torch.set_num_threads(machine_cpus())
    effort, started = QUICK if quick else FULL, perf_counter()
    with benchmark_bundle(model_uri, int8=not only or bool({"int8", "engine", "bulk"} & set(only))) as bundle:
        rows: list[Row] = []
        failures: dict[str, str] = {}
        engine = resolve_engine(bundle, "auto", CPU) if not only or {"engine", "bulk"} & set(only) else ""
        for name in only or COMPARISONS:
            began = perf_counter()
            try:
                rows += _MEASURES[name](bundle, engine, effort)
            except DermRayError as error:
                failures[name] = str(error)
            logger.info("%s: %.0f s", name, perf_counter() - began)
    return Benchmark(describe_machine(), rows, failures, perf_counter() - started)


def describe_machine() -> dict[str, Any]:
    """Return hardware and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": machine_cpus(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "ray", "pillow", "openvino")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
