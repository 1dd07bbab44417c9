"""Model bundles: folders with weights, class order, preprocessing and provenance, verified by digests."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from derm_ray import RESEARCH_NOTICE, __version__, storage
from derm_ray.data.patient import PatientEncoder
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.data.reference import Reference
from derm_ray.domain import Calibration, LabelSet, label_set
from derm_ray.errors import BundleError, InputError, OutputExistsError, StorageError
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.networks import PairNetwork
from derm_ray.models.views import TTA

FORMAT_VERSION = 4
INDEX = "bundle.json"
WEIGHTS = "weights.safetensors"
CARD = "README.md"
_CALIBRATION = TypeAdapter(Calibration)
_REFERENCE = TypeAdapter(Reference)


@dataclass(frozen=True)
class Bundle:
    """A verified model in memory.

    Attributes:
        network: architecture.
        label_set: class order and tasks.
        preprocessing: pixels to network input.
        calibration: temperatures and operating points.
        weights: the network's state dict, fp32 on CPU; of several networks, each key after the number of its network.
        model_digest: SHA-256 over weights, architecture, classes, preprocessing, patient data and calibration.
        provenance: training config, run, manifest digest, metrics, code version.
        uri: of the folder.
        reference: for drift monitoring; not part of the model digest, may be empty.
        members: networks whose probabilities are averaged: 1, or those of an ensemble.
        tta: test-time augmentation, a key of :data:`derm_ray.models.views.TTA`.
        patient: the patient data that it uses; ``None``: it uses none.
    """

    network: NetworkConfig
    label_set: LabelSet
    preprocessing: Preprocessing
    calibration: Calibration
    weights: Mapping[str, Tensor]
    model_digest: str
    provenance: Mapping[str, Any]
    uri: str
    reference: Reference = ()
    members: int = 1
    tta: str = "none"
    patient: PatientEncoder | None = None

    @property
    def passes(self) -> int:
        """Forward passes per image."""
        return self.members * TTA[self.tta]

    def member(self, number: int) -> "Bundle":
        """Return a network of an ensemble, counted from 0, without test-time augmentation."""
        weights = self.weights
        if self.members > 1:
            start = f"{number}."
            weights = {key.removeprefix(start): value for key, value in weights.items() if key.startswith(start)}
        return replace(self, weights=weights, members=1, tta="none")

    @property
    def calibrated_on(self) -> str:
        """What its temperatures, thresholds and offsets were fitted on."""
        return _calibrated_on(self.provenance)

    @property
    def run_id(self) -> str | None:
        """Its training run; ``None`` if not recorded."""
        found: str | None = self.provenance.get("run_id")
        return found

    def build(self) -> PairNetwork:
        """Return the network with its weights, in evaluation mode; an ensemble's are built by :meth:`member`.

        Raises:
            BundleError: the weights do not fit the architecture.
        """
        assert self.members == 1, "one network"
        network = build_network(self.network)
        try:
            network.load_state_dict(dict(self.weights))
        except RuntimeError as error:
            raise BundleError(f"{WEIGHTS} does not fit the architecture in {INDEX}: {error}") from error
        return network.eval()


def _model_digest(weights_sha256: str, index: Mapping[str, Any]) -> str:
    keys = ("architecture", "members", "tta", "label_set", "classes", "preprocessing", "patient", "calibration")
    return storage.digest({"weights": weights_sha256, **{key: index[key] for key in keys}})


def save_bundle(
    uri: str,
    *,
    network: NetworkConfig,
    label_set: LabelSet,
    preprocessing: Preprocessing,
    weights: Mapping[str, Tensor],
    provenance: Mapping[str, Any],
    calibration: Calibration | None = None,
    reference: Reference = (),
    members: int = 1,
    tta: str = "none",
    patient: PatientEncoder | None = None,
) -> str:
    """Write a bundle; ``bundle.json`` comes last, so that an incomplete bundle is not a valid one.

    Returns:
        The model digest.

    Raises:
        OutputExistsError: the folder already contains a bundle.
    """
    if storage.exists(storage.join(uri, INDEX)):
        raise OutputExistsError(f"{uri} already contains a bundle. Choose another folder.")
    assert network.patient == (patient.width if patient is not None else None), "the encoding fits the network"
    data = save_safetensors({key: value.detach().cpu().contiguous() for key, value in weights.items()})
    index: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "derm_ray_version": __version__,
        "architecture": network.to_json(),
        "members": members,
        "tta": tta,
        "label_set": label_set.name,
        "classes": list(label_set.class_names),
        "preprocessing": preprocessing.to_json(),
        "patient": patient.to_json() if patient is not None else None,
        "calibration": _CALIBRATION.dump_python(calibration or Calibration(), mode="json"),
        "provenance": _finite(provenance),
        "reference": _REFERENCE.dump_python(reference, mode="json"),
    }
    index["model_digest"] = _model_digest(storage.sha256(data), index)
    card = _card(index).encode()
    index["files"] = {WEIGHTS: storage.sha256(data), CARD: storage.sha256(card)}
    index["index_digest"] = storage.digest(index)
    storage.write_bytes(storage.join(uri, WEIGHTS), data)
    storage.write_bytes(storage.join(uri, CARD), card)
    storage.write_json(storage.join(uri, INDEX), index)
    return str(index["model_digest"])


def _no_bundle(uri: str) -> BundleError:
    inside = storage.join(uri, "bundle")
    if storage.exists(storage.join(inside, INDEX)):
        return BundleError(f"{uri} contains no bundle (no {INDEX}). Did you mean {inside}?")
    lacks = f"contains no bundle (no {INDEX})" if storage.exists(uri) else "does not exist"
    return BundleError(
        f"{uri} {lacks}. Give the folder `bundle` of a finished training run. If its run still trains or was "
        "stopped, let it finish first: the same command resumes it."
    )


def load_bundle(uri: str) -> Bundle:
    """Read a bundle and verify every digest.

    Raises:
        BundleError: it is missing, incomplete, modified, or of another format.
        StorageError: the storage cannot be reached.
    """
    if not storage.exists(storage.join(uri, INDEX)):
        raise _no_bundle(uri)
    index = storage.read_json(storage.join(uri, INDEX))
    if not isinstance(index, dict) or index.get("format_version") != FORMAT_VERSION:
        found = index.get("format_version") if isinstance(index, dict) else None
        raise BundleError(
            f"{uri}: bundle format {found!r} is not supported (expected {FORMAT_VERSION}). "
            "Train the model again with this version."
        )
    sealed = index.pop("index_digest", None)
    if sealed != storage.digest(index):
        raise _altered(uri, INDEX)
    files = {name: _read_verified(uri, name, expected) for name, expected in index["files"].items()}
    try:
        weights = load_safetensors(files[WEIGHTS])
        bundle = Bundle(
            network=NetworkConfig.from_json(index["architecture"]),
            label_set=label_set(index["label_set"]),
            preprocessing=Preprocessing.from_json(index["preprocessing"]),
            calibration=_CALIBRATION.validate_python(index["calibration"]),
            weights=weights,
            model_digest=index["model_digest"],
            provenance=index["provenance"],
            uri=storage.absolute(uri),
            reference=_REFERENCE.validate_python(index["reference"]),
            members=index["members"],
            tta=index["tta"],
            patient=PatientEncoder.from_json(index["patient"]) if index["patient"] is not None else None,
        )
    except (SafetensorError, KeyError, TypeError, ValueError, InputError) as error:
        raise BundleError(f"{uri}: cannot be read by this version of derm_ray: {error}") from error
    if list(bundle.label_set.class_names) != index["classes"]:
        raise BundleError(
            f"{uri}: its classes differ from label set {bundle.label_set.name!r} of this version. Train the model "
            "again."
        )
    if bundle.model_digest != _model_digest(index["files"][WEIGHTS], index):
        raise _altered(uri, INDEX)
    return bundle


def _read_verified(uri: str, name: str, expected: str) -> bytes:
    try:
        data = storage.read_bytes(storage.join(uri, name))
    except StorageError as error:
        raise BundleError(f"{uri}: {name} cannot be read: {error}") from error
    if storage.sha256(data) != expected:
        raise _altered(uri, name)
    return data


def _altered(uri: str, name: str) -> BundleError:
    return BundleError(
        f"{uri}: {name} was modified (its SHA-256 differs from the recorded one). Copy the bundle again."
    )


def _finite(value: Any) -> Any:
    """Replace NaN and infinities by null, for JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


_OUT_OF_FOLD = """
Each lesion was predicted by the one network that was not trained on it. All networks together, as this model predicts,
were not measured: that takes lesions that none of them has seen.
"""


def _calibrated_on(provenance: Mapping[str, Any]) -> str:
    return "out-of-fold predictions" if provenance.get("folds") else "val"


def _decision(calibration: Mapping[str, Any], chosen_on: str) -> str:
    if not calibration["offsets"]:
        return ""
    return f"""
The named diagnosis is not always the most probable class: classes are weighed by factors chosen on {chosen_on} for
{calibration["decide"]}. Probabilities do not depend on them.
"""


def _card(index: Mapping[str, Any]) -> str:
    architecture = ", ".join(
        f"{key} {value}"
        for key, value in index["architecture"].items()
        if value is not None and key not in ("cam", "patient")
    )
    patient = str(PatientEncoder.from_json(index["patient"])) if index["patient"] is not None else "none"
    if cam := index["architecture"]["cam"]:
        architecture += "; CAM network " + ", ".join(f"{key} {value}" for key, value in cam.items())
    points = "\n".join(
        f"| {point['kind']} | {point['task']} | {point['target']:.0%} | {point['threshold']:.4f} "
        f"| {point['sensitivity']:.3f} | {point['specificity']:.3f} |"
        for point in index["calibration"]["operating_points"]
    )
    folds, chosen_on = index["provenance"].get("folds"), _calibrated_on(index["provenance"])
    metrics = index["provenance"].get("metrics", {})
    metrics = "\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items() if isinstance(value, int | float))
    return f"""# Lesion-pair model ({index["label_set"]}, {len(index["classes"])} classes)

{RESEARCH_NOTICE}

- Model digest: `{index["model_digest"]}`
- Training run: {f"`{run_id}`" if (run_id := index["provenance"].get("run_id")) else "not recorded"}
- Architecture: {architecture}
- Input: clinical photo and dermoscopy image of one lesion, each {index["preprocessing"]["size"]} px square, RGB
- Forward passes per image: {index["members"] * TTA[index["tta"]]}; networks {index["members"]}, views {index["tta"]}
- Patient data, all of it optional: {patient}
- Classes, in order: {", ".join(index["classes"])}
- Written by derm_ray {index["derm_ray_version"]}

## {"Metrics of the out-of-fold predictions" if folds else "Validation metrics of the sealed epoch"}

{metrics or "none recorded"}
{_OUT_OF_FOLD if folds else ""}
## Operating points, chosen on {chosen_on}

| prediction | task | target sensitivity | threshold | sensitivity there | specificity there |
|---|---|---|---|---|---|
{points or "| none | | | | | |"}
{_decision(index["calibration"], chosen_on)}
## Limits

Validated only on the split above. Lesions, cameras and skin tones that differ from those of the training manifest
are untested. The full recipe is in `bundle.json` under `provenance`.
"""
