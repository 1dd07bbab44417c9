"""Baseline: a logistic regression on frozen ImageNet features."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from derm_ray.data.labels import collapse
from derm_ray.data.loading import load_all
from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.prepared import require_size
from derm_ray.data.preprocessing import Pixels, Preprocessing
from derm_ray.data.validation import validate
from derm_ray.domain import LabelSet, LesionPair, Modality, PredictionKind, Split
from derm_ray.evaluation.evaluate import compute_metrics
from derm_ray.inference.precision import autocast, default_device, network_input, resolve_precision, to_device
from derm_ray.models.trunks import Trunk
from derm_ray.models.weights import load_trunk_weights, read_init_weights

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
BATCH = 32

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BaselineResult:
    """Metrics on test, inverse regularization C by macro AUROC on val, and probabilities of test (N, K) in manifest
    order.
    """

    kinds: dict[PredictionKind, dict[str, float]]
    strengths: dict[PredictionKind, float]
    predictions: dict[PredictionKind, npt.NDArray[np.float32]]


def run_baseline(
    manifest: Manifest, labels: LabelSet, *, init_weights: str | None = None, size: int = 128
) -> BaselineResult:
    """Fit on train, choose the regularization on val, report on test; every pair has both images, diagnosis and split.

    Features are the spatial means of VGG-16's relu5_3 (512 per image) for images of ``size`` pixels, standardized on
    train; those of both images together give cross.

    Raises:
        ManifestError, ConfigError, StorageError: the input is not usable.
    """
    require_size(manifest, Preprocessing(size), "the baseline's size")
    manifest = collapse(manifest, labels)
    validate(manifest, labels, complete=tuple(Split), purpose="the baseline")
    trunk = Trunk("vgg16")
    load_trunk_weights(trunk, read_init_weights("vgg16", init_weights), init_weights or "torchvision's vgg16")
    features: dict[Split, tuple[Features, Features]] = {}
    truth: dict[Split, npt.NDArray[np.int64]] = {}
    for split in Split:
        chosen = require_split(manifest, split)
        features[split] = _extract(trunk, chosen.pairs(), manifest.uri, Preprocessing(size))
        truth[split] = np.array([labels.class_names.index(str(d)) for d in chosen.column("diagnosis")])
    kinds: dict[PredictionKind, dict[str, float]] = {}
    strengths: dict[PredictionKind, float] = {}
    predictions: dict[PredictionKind, npt.NDArray[np.float32]] = {}
    for kind in PredictionKind:
        inputs = {split: _columns(pair, kind) for split, pair in features.items()}
        fitted = {c: _fit(inputs[Split.TRAIN], truth[Split.TRAIN], c) for c in STRENGTHS}
        scores = {
            c: compute_metrics(labels, truth[Split.VAL], _predict(model, inputs[Split.VAL], labels))["macro_auroc"]
            for c, model in fitted.items()
        }
        strengths[kind] = max(scores, key=scores.__getitem__)
        predicted = _predict(fitted[strengths[kind]], inputs[Split.TEST], labels)
        kinds[kind] = compute_metrics(labels, truth[Split.TEST], predicted)
        predictions[kind] = predicted.astype(np.float32)
    return BaselineResult(kinds, strengths, predictions)


def _columns(pair: tuple[Features, Features], kind: PredictionKind) -> Features:
    if kind is PredictionKind.CROSS:
        return np.concatenate(pair, 1)
    return pair[0] if kind is PredictionKind.CLINICAL else pair[1]


def _fit(inputs: Features, labels: npt.NDArray[np.int64], strength: float) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000)).fit(inputs, labels)


def _predict(model: Pipeline, inputs: Features, labels: LabelSet) -> npt.NDArray[np.float64]:
    """Return (N, K) probabilities; a class that train does not have gets 0."""
    probabilities = np.zeros((len(inputs), len(labels.class_names)))
    probabilities[:, model.classes_] = model.predict_proba(inputs)
    return probabilities


def _extract(trunk: Trunk, pairs: list[LesionPair], uri: str, spec: Preprocessing) -> tuple[Features, Features]:
    """Return (N, 512) features of the clinical and of the dermoscopy images."""
    device = default_device()
    precision = resolve_precision("auto", device)
    to_device(trunk.eval(), device)

    def embed(images: list[Pixels]) -> Features:
        with torch.inference_mode(), autocast(precision, device):
            embedded: Features = (
                trunk(network_input(np.stack(images), device)).last_BCHW.float().mean((2, 3)).cpu().numpy()
            )
        return embedded

    features: dict[Modality, list[Features]] = {modality: [] for modality in Modality}
    for loaded in filter(None, load_all(pairs, spec, uri, chunk=BATCH)):
        for modality, found in features.items():
            found.append(embed([image for pixels in loaded if (image := pixels.of(modality)) is not None]))
    clinical, dermoscopy = (np.concatenate(found) for found in features.values())
    return clinical, dermoscopy
