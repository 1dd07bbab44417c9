"""Adding an int8 engine to a bundle, after a comparison with fp32."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.labels import collapse
from derm_ray.data.loading import pair_images
from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.patient_columns import patient_pairs
from derm_ray.data.prepared import require_size
from derm_ray.data.validation import validate
from derm_ray.domain import LesionPair, Modality, Split
from derm_ray.errors import ConfigError, ManifestError, WorkError, counted
from derm_ray.evaluation.parity import Parity, measure_parity
from derm_ray.inference.engines import openvino, quantization
from derm_ray.inference.engines.engine_store import StoredEngine, already_there, store_engine, stored_engines
from derm_ray.inference.predictor import Predictor

logger = logging.getLogger(__name__)

CALIBRATION_PAIRS = 150
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Quantized:
    """An int8 engine in its bundle: name and digest, pairs of ``val`` that calibrated it, parity on all others."""

    engine: str
    calibrated_on: int
    parity: Parity

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return {"engine": self.engine, "calibrated_on": self.calibrated_on, "parity": self.parity.to_json()}


def quantize_bundle(
    model_uri: str, manifest: Manifest, *, max_pairs: int | None = None, overwrite: bool = False
) -> Quantized:
    """Quantize a model on ``val``, compare it with fp32 on the other pairs, and store it in the bundle.

    Args:
        model_uri: the bundle.
        manifest: pairs with both images and a split; diagnoses where they are known.
        max_pairs: maximum number of pairs to compare, drawn at random; ``None`` is all.
        overwrite: replace an existing engine.

    Raises:
        ConfigError: the extra is not installed, ``val`` is empty, or the images are prepared at another size.
        ManifestError: rules are broken, images cannot be used, or there is nothing to compare on.
        OutputExistsError: the bundle already has the engine.
        WorkError: int8 differs too much from fp32; nothing is written.
    """
    for package in ("openvino", "nncf"):
        openvino.require(package)
    bundle = load_bundle(model_uri)
    if not overwrite and openvino.NAME in stored_engines(bundle):
        raise already_there(bundle, openvino.NAME)
    if bundle.members > 1:
        raise ConfigError(f"{model_uri}: an ensemble of {bundle.members} networks; int8 is for bundles of one network.")
    require_size(manifest, bundle.preprocessing, "the model's size")
    manifest = collapse(manifest, bundle.label_set)
    validate(manifest, bundle.label_set)
    generator = np.random.default_rng(0)
    calibration = _draw(_complete(require_split(manifest, Split.VAL).pairs()), CALIBRATION_PAIRS, generator)
    used = {pair.pair_id for pair in calibration}
    pairs = _complete(patient_pairs(manifest, bundle.patient))
    others = _draw([pair for pair in pairs if pair.pair_id not in used], max_pairs, generator)
    if not calibration or not others:
        where = "in val to calibrate on" if not calibration else "outside of val to compare on"
        raise ManifestError(manifest.uri, [f"there is no pair with both images {where}"])
    network = bundle.member(0)
    logger.info("quantizing with %s of val", counted(len(calibration), "pair"))
    files, built_with = quantization.quantize(network, pair_images(calibration, bundle.preprocessing, manifest.uri))
    logger.info("comparing with fp32 on %s", counted(len(others), "other pair"))
    draft = openvino.OpenVinoEngine(StoredEngine(openvino.NAME, "", {}, files))
    reference = Predictor(network, "torch", device=CPU)
    parity = measure_parity(reference, Predictor(network, draft), others, manifest.uri)
    if not parity.passed:
        raise WorkError(
            "int8 predictions differ too much from fp32 (required: agreement >= 0.99, mean |dp| <= 0.01). Nothing was "
            "written.\n"
            + "\n".join(parity.lines())
            + f"\nIt was calibrated on {counted(len(calibration), 'pair')} of val. Add pairs to val (at most "
            f"{CALIBRATION_PAIRS} are used), or keep fp32."
        )
    report = {"calibrated_on": len(calibration), **parity.to_json()}
    digest = store_engine(bundle, openvino.NAME, files, report, built_with, overwrite=overwrite)
    return Quantized(StoredEngine(openvino.NAME, digest, report, files).identity, len(calibration), parity)


def _complete(pairs: list[LesionPair]) -> list[LesionPair]:
    return [pair for pair in pairs if all(pair.uri(modality) is not None for modality in Modality)]


def _draw(pairs: list[LesionPair], most: int | None, generator: np.random.Generator) -> list[LesionPair]:
    if most is None or len(pairs) <= most:
        return pairs
    return [pairs[i] for i in sorted(generator.choice(len(pairs), most, replace=False))]
