"""Engine selection: resolving names, and measuring which engine is faster."""

import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter, time

import numpy as np
import torch

from derm_ray import __version__, local_files, storage
from derm_ray.bundle import Bundle, load_bundle
from derm_ray.errors import ConfigError, unknown_name
from derm_ray.inference.engines import ENGINES
from derm_ray.inference.engines.averaged import AveragedEngine
from derm_ray.inference.engines.engine import Engine
from derm_ray.inference.precision import default_device

logger = logging.getLogger(__name__)

AUTO = "auto"
TRIAL_PAIRS = 2
TRIALS = 3
LEAST_S = 0.5
"""How long the trials take at least: a small network answers within milliseconds, and any other work disturbs it."""
MARGIN = 1.25
"""How many times as fast as those before it an engine has to be for ``auto`` to choose it: less can be chance."""
KEPT_S = 24 * 3600
"""How long this machine keeps a choice, so that a model's commands agree also where other work disturbs measuring."""


def make_engine(bundle: Bundle, name: str, device: torch.device | None = None) -> Engine:
    """Return an engine by name; see :func:`resolve_engine`."""
    chosen = device or default_device()
    base, _, detail = resolve_engine(bundle, name, chosen).partition("@")
    engines = [ENGINES[base].make(bundle.member(number), chosen, detail) for number in range(bundle.members)]
    return engines[0] if bundle.passes == 1 else AveragedEngine(engines, bundle.tta)


def resolve_engine(bundle: Bundle, name: str, device: torch.device | None = None) -> str:
    """Resolve an engine name on this machine, by default for its first GPU or its CPU.

    ``auto`` measures those that start quickly and can run here, in the order of :data:`ENGINES`, the reference first; a
    later one is chosen if it is faster by :data:`MARGIN`. The choice holds for :data:`KEPT_S` on this machine. ``@``
    and whatever else affects the results, such as the digest of an engine in the bundle, follow the name; the result
    resolves to itself.

    Raises:
        ConfigError: the name is unknown, or the engine cannot run here.
        BundleError: the bundle does not contain the engine, or contains another one now.
    """
    chosen = device or default_device()
    if name == AUTO:
        return _fastest(bundle, chosen)
    base, _, pinned = name.partition("@")
    if base not in ENGINES or (pinned and ENGINES[base].resolve is None):
        raise ConfigError(unknown_name("engine", name, (AUTO, *ENGINES)))
    resolve = ENGINES[base].resolve
    return f"{base}@{resolve(bundle, chosen, pinned)}" if resolve is not None else base


def differs(name: str) -> bool:
    """Return whether the result of :func:`resolve` depends on the machine."""
    base = name.partition("@")[0]
    return name == AUTO or (base in ENGINES and ENGINES[base].differs)


def resolve_engine_of(model_uri: str, name: str, device: torch.device) -> str:
    """Do the same by the bundle's URI, such as on another node."""
    return resolve_engine(load_bundle(model_uri), name, device)


def _fastest(bundle: Bundle, device: torch.device) -> str:
    found = (kind.candidate(bundle.member(0), device) for kind in ENGINES.values() if kind.candidate is not None)
    engines = [engine for engine in found if engine is not None]
    if len(engines) == 1:
        logger.info("engine %s (the only one available)", engines[0].name)
        return engines[0].name
    kept = _kept_choice(bundle, device, [engine.name for engine in engines])
    try:
        if time() - kept.stat().st_mtime < KEPT_S:
            best = kept.read_text()
            if best in [engine.name for engine in engines]:
                logger.info("engine %s (the fastest here when last measured, less than a day ago)", best)
                return best
    except (OSError, UnicodeDecodeError):  # none yet, or a damaged one
        pass
    logger.info("measuring which engine is the fastest here; --engine NAME skips this")
    rates = _pairs_per_s(engines, bundle.preprocessing.size)
    best = engines[0].name
    for name, rate in rates.items():
        if rate > MARGIN * rates[best]:
            best = name
    measured = ", ".join(f"{name} {rate / bundle.passes:.3g}" for name, rate in rates.items())
    logger.info("engine %s (pairs/s: %s)", best, measured)
    with suppress(OSError):  # a home that cannot be written
        local_files.write(str(kept), best.encode())
    return best


def _kept_choice(bundle: Bundle, device: torch.device, engines: Sequence[str]) -> Path:
    """Return the file in the user's cache that keeps a choice among engines."""
    processor = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    choice = [bundle.model_digest, processor, *engines, torch.__version__, __version__]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(cache, "derm_ray", "engines", storage.digest(choice))


def _pairs_per_s(engines: Sequence[Engine], size: int) -> dict[str, float]:
    """Measure engines in turns, so that other work on the machine slows all of them down; the best of each counts."""
    clinical, dermoscopy = np.random.default_rng(0).integers(0, 256, (2, TRIAL_PAIRS, size, size, 3), np.uint8)
    times: dict[str, list[float]] = {engine.name: [] for engine in engines}
    end, rounds = perf_counter() + LEAST_S, 0
    while rounds <= TRIALS or perf_counter() < end:
        rounds += 1
        for engine in engines:
            began = perf_counter()
            engine.run(clinical, dermoscopy)
            times[engine.name].append(perf_counter() - began)
    return {name: TRIAL_PAIRS / min(taken[1:]) for name, taken in times.items()}
