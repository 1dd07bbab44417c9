"""Engine selection: resolving names, and measuring the fastest engine."""

import importlib.util
import logging
from time import perf_counter

import numpy as np
import torch

from derm_ray.bundle import Bundle, load_bundle
from derm_ray.errors import BundleError, ConfigError, unknown_name
from derm_ray.inference.engines import openvino
from derm_ray.inference.engines.engine import Engine
from derm_ray.inference.engines.engine_store import engine_identity, load_engine, stored_engines
from derm_ray.inference.engines.pytorch import CompiledEngine, TorchEngine, require_compiler
from derm_ray.inference.precision import default_device, hardware_has_bf16, resolve_precision

logger = logging.getLogger(__name__)

ENGINES = ("auto", "torch", "torch-bf16", "compiled", openvino.NAME)
TRIAL_PAIRS = 2
TRIALS = 2


def make_engine(bundle: Bundle, name: str = "auto", device: torch.device | None = None) -> Engine:
    """Return an engine by name; see :func:`resolve_engine`."""
    chosen = device or default_device()
    return _make(bundle, resolve_engine(bundle, name, chosen), chosen)


def resolve_engine(bundle: Bundle, name: str, device: torch.device | None = None) -> str:
    """Resolve an engine name on this machine.

    ``auto`` is the fastest in a short measurement of those that need no compiling: ``torch``, ``torch-bf16`` where the
    hardware has it, and on CPUs ``openvino-int8`` where the bundle holds it and OpenVINO is installed.

    Args:
        bundle: the model.
        name: one of :data:`ENGINES`, or the result of an earlier call.
        device: ``None`` is the first GPU, or the CPU.

    Returns:
        The name, followed by ``@`` and the digest of an engine in the bundle, or the precision of ``compiled``.

    Raises:
        ConfigError: the name is unknown, or the engine cannot run here.
        BundleError: the bundle does not contain the engine, or contains another one now.
    """
    chosen = device or default_device()
    base, _, pinned = name.partition("@")
    precisions = ("fp32", "bf16") if base == "compiled" else ()
    if base not in ENGINES or (pinned and base != openvino.NAME and pinned not in precisions):
        raise ConfigError(unknown_name("engine", name, ENGINES))
    if base == openvino.NAME:
        if chosen.type != "cpu":
            raise ConfigError(f"engine {base} runs on CPUs only. Run without GPUs, or use torch-bf16 or compiled.")
        openvino.require("openvino")
        identity = engine_identity(bundle, base)
        if pinned and identity != name:
            raise BundleError(f"{bundle.uri} now contains {identity}, but this run started with {name}. Restore it.")
        return identity
    if base == "compiled":
        require_compiler(chosen)
        return f"{base}@{pinned or resolve_precision('auto', chosen)}"
    return _fastest(bundle, chosen) if name == "auto" else name


def resolve_engine_of(model_uri: str, name: str, device: torch.device) -> str:
    """Do the same by the bundle's URI, such as on another node."""
    return resolve_engine(load_bundle(model_uri), name, device)


def _fastest(bundle: Bundle, device: torch.device) -> str:
    engines = _candidates(bundle, device)
    if len(engines) == 1:
        logger.info("engine %s (the only one available)", engines[0].name)
        return engines[0].name
    rates = {engine.name: _pairs_per_s(engine, bundle.preprocessing.size) for engine in engines}
    best = max(rates, key=lambda name: rates[name])
    measured = ", ".join(f"{name} {rate:.3g}" for name, rate in rates.items())
    logger.info("engine %s (the fastest; pairs/s: %s)", best, measured)
    return best


def _candidates(bundle: Bundle, device: torch.device) -> list[Engine]:
    engines = [_make(bundle, "torch", device)]
    if hardware_has_bf16(device):
        engines.append(_make(bundle, "torch-bf16", device))
    if device.type == "cpu" and importlib.util.find_spec("openvino") and openvino.NAME in stored_engines(bundle):
        sealed = load_engine(bundle, openvino.NAME)
        try:
            engines.append(openvino.OpenVinoEngine(sealed))
        except BundleError as error:  # valid, but created with another OpenVINO version
            logger.warning("engine skipped: %s", error)
    return engines


def _make(bundle: Bundle, name: str, device: torch.device) -> Engine:
    match name.partition("@")[0]:
        case "compiled":
            return CompiledEngine(bundle, name.partition("@")[2], device)
        case openvino.NAME:
            return openvino.OpenVinoEngine(load_engine(bundle, openvino.NAME))
        case _:
            return TorchEngine(bundle, {"torch": "fp32", "torch-bf16": "bf16"}[name], device)


def _pairs_per_s(engine: Engine, size: int) -> float:
    clinical, dermoscopy = np.random.default_rng(0).integers(0, 256, (2, TRIAL_PAIRS, size, size, 3), np.uint8)
    engine.run(clinical, dermoscopy)
    times = []
    for _ in range(TRIALS):
        began = perf_counter()
        engine.run(clinical, dermoscopy)
        times.append(perf_counter() - began)
    return TRIAL_PAIRS / min(times)
