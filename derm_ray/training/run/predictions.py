"""Predictions of a trained network for whole splits, computed on a worker of the cluster."""

from dataclasses import dataclass, replace

import torch

from derm_ray import runtime
from derm_ray.bundle import load_bundle
from derm_ray.errors import DermRayError
from derm_ray.inference.predictor import temper
from derm_ray.models.factory import build_network
from derm_ray.training.batches import Batch, LabeledPairs, evaluation_order
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import FeatureCache
from derm_ray.training.loop import KindProbabilities, TrainingLoop
from derm_ray.training.run.data_loading import batches

BATCH = 64


@dataclass(frozen=True)
class SplitPredictions:
    """Calibrated probabilities (pairs, classes) of one split, for the pairs as given and with their images swapped."""

    given: KindProbabilities
    swapped: KindProbabilities


def predict_split(
    bundle_uri: str, config: TrainConfig, pairs: LabeledPairs, features: FeatureCache | None, *, use_gpu: bool
) -> SplitPredictions:
    """Run a saved network over a split, reading images or their cached activations, on a worker of the cluster.

    Raises:
        ImageError: an image cannot be used.
        BundleError, StorageError: something cannot be read.
        WorkError: the task was lost.
    """
    return runtime.run_remote(_predict, bundle_uri, config, pairs, features, use_gpu, num_gpus=int(use_gpu))


def _predict(
    bundle_uri: str, config: TrainConfig, pairs: LabeledPairs, features: FeatureCache | None, use_gpu: bool
) -> SplitPredictions:
    model = load_bundle(bundle_uri)
    network = build_network(model.network, freeze=config.freeze)
    network.load_state_dict(dict(model.weights))
    loop = TrainingLoop(config, network, torch.device("cuda" if use_gpu else "cpu"))

    def predict(*, swapped: bool) -> KindProbabilities:
        order = evaluation_order(len(pairs), BATCH)
        loaded = batches(pairs, order, config.preprocessing, rank=0, world_size=1, features=features)
        raw = loop.predict(map(_swapped, loaded) if swapped else loaded, len(pairs))
        return {kind: temper(p, model.calibration.temperatures.get(kind, 1.0)) for kind, p in raw.items()}

    return SplitPredictions(predict(swapped=False), predict(swapped=True))


def _swapped(loaded: Batch | DermRayError) -> Batch | DermRayError:
    if isinstance(loaded, DermRayError):
        return loaded
    return replace(loaded, clinical=loaded.dermoscopy, dermoscopy=loaded.clinical)
