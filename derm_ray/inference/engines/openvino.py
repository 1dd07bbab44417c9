"""int8 on CPUs, by OpenVINO: convolutions in 8 bits, everything else in fp32."""

import importlib
import importlib.util
import logging
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from derm_ray.bundle import Bundle
from derm_ray.data.patient import Vectors
from derm_ray.domain import Modality, PredictionKind
from derm_ray.errors import BundleError, ConfigError
from derm_ray.inference.engines.engine import EngineKind, Images, Probabilities
from derm_ray.inference.engines.engine_store import StoredEngine, engine_digest, load_engine, stored_engines
from derm_ray.models.networks import PairLogits

logger = logging.getLogger(__name__)

Arrays = npt.NDArray[Any]

NAME = "openvino-int8"
BOTH, CROSS, PATIENT = "both", "cross", "patient"
"""Parts: one encoder for images of ``both`` modalities, or one named after each; the cross sub-network; the network of
patient data."""


def require(name: str) -> ModuleType:
    """Import a package of the extra ``openvino``, without its telemetry; a ``ConfigError`` says how to install it."""
    # OpenVINO and NNCF send telemetry to Intel if they can import this.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"engine {NAME} needs the package {name}: pip install 'derm-ray[openvino]' on every machine of the run."
        ) from error


def compile_part(model: Any, threads: int) -> Any:
    """Compile a part for this CPU; layers that are not quantized stay fp32, even if bf16 would be faster."""
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # Two replicas on one machine would be pinned to the same cores.
        "ENABLE_CPU_PINNING": False,
    }
    return require("openvino").Core().compile_model(model, "CPU", options)


def outputs_of(compiled: Any, *inputs: Arrays) -> list[Arrays]:
    """Run a compiled part and return its outputs in order."""
    return list(compiled(inputs).to_tuple())


def cross_inputs(clinical: list[Arrays], dermoscopy: list[Arrays]) -> list[Arrays]:
    """Return the inputs of the cross sub-network: both taps, then both maps if there are any."""
    return [array for pair in zip(clinical[1:], dermoscopy[1:], strict=True) for array in pair]


class OpenVinoEngine:
    """Runs the parts created by ``derm-ray model quantize``, with as many threads as torch.

    Raises:
        ConfigError: OpenVINO is not installed.
        BundleError: it cannot read the parts.
    """

    def __init__(self, sealed: StoredEngine) -> None:
        self.name = sealed.identity
        core, threads = require("openvino").Core(), torch.get_num_threads()
        names = {file.removesuffix(".xml") for file in sealed.files if file.endswith(".xml")}
        try:
            parts = {
                name: compile_part(core.read_model(sealed.files[f"{name}.xml"], sealed.files[f"{name}.bin"]), threads)
                for name in names
            }
        except (RuntimeError, KeyError) as error:
            raise BundleError(
                f"engine {self.name} cannot be read by the installed OpenVINO: {str(error).strip().splitlines()[-1]} "
                "Create it again: derm-ray model quantize --overwrite."
            ) from error
        self._cross = parts.pop(CROSS, None)
        self._patient = parts.pop(PATIENT, None)
        self._encoders = parts

    def run(
        self, clinical: Images | None, dermoscopy: Images | None, patient: Vectors | None = None
    ) -> Mapping[PredictionKind, Probabilities]:
        """See :class:`derm_ray.inference.engines.engine.Engine`."""
        given = {m: i for m, i in zip(Modality, (clinical, dermoscopy), strict=True) if i is not None}
        encoded = self._encode(given)
        logits = {str(modality): torch.from_numpy(outputs[0]) for modality, outputs in encoded.items()}
        if self._cross is not None and len(encoded) == 2:
            (triple,) = outputs_of(self._cross, *cross_inputs(*encoded.values()))
            logits["triple"] = torch.from_numpy(triple)
        pair = PairLogits(**{name: logits.get(name) for name in PairLogits._fields})
        if self._patient is not None:
            pair = pair.plus(torch.from_numpy(self._term(patient, len(next(iter(given.values()))))))
        return {kind: p.numpy() for kind, p in pair.probabilities().items()}

    def _term(self, patient: Vectors | None, pairs: int) -> Arrays:
        """Return the term of the patient data (B, classes); without it, that of zeros."""
        if patient is None:
            patient = np.zeros((pairs, self._patient.input(0).partial_shape[1].get_length()), np.float32)
        (term,) = outputs_of(self._patient, patient)
        return term

    def _encode(self, given: dict[Modality, Images]) -> dict[Modality, list[Any]]:
        """Return logits, tap and, where there is one, the map of each modality's images."""
        if BOTH not in self._encoders:
            return {modality: outputs_of(self._encoders[modality], images) for modality, images in given.items()}
        outputs = outputs_of(self._encoders[BOTH], np.concatenate(list(given.values())))
        shares = zip(*(np.split(output, len(given)) for output in outputs), strict=True)
        return {modality: list(share) for modality, share in zip(given, shares, strict=True)}


def _resolve(bundle: Bundle, device: torch.device, pinned: str) -> str:
    if device.type != "cpu":
        raise ConfigError(f"engine {NAME} runs on CPUs only; leave the GPUs out, or use torch-bf16 or compiled.")
    require("openvino")
    digest = engine_digest(bundle, NAME)
    if pinned not in ("", digest):
        raise BundleError(
            f"{bundle.uri} now contains {NAME}@{digest}, but this run started with {NAME}@{pinned}. Restore it."
        )
    return digest


def _candidate(bundle: Bundle, device: torch.device) -> OpenVinoEngine | None:
    if device.type != "cpu" or not importlib.util.find_spec("openvino") or NAME not in stored_engines(bundle):
        return None
    stored = load_engine(bundle, NAME)
    try:
        return OpenVinoEngine(stored)
    except BundleError as error:  # valid, but created with another OpenVINO version
        logger.warning("engine skipped: %s", error)
        return None


INT8 = EngineKind(lambda bundle, *_: OpenVinoEngine(load_engine(bundle, NAME)), resolve=_resolve, candidate=_candidate)
