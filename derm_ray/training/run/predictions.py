"""Predictions of a sealed network for whole splits, computed on the cluster."""

from dataclasses import dataclass, replace

import torch

from derm_ray import runtime
from derm_ray.bundle import Bundle
from derm_ray.errors import DermRayError
from derm_ray.inference.predictor import temper
from derm_ray.models.factory import build_network
from derm_ray.training.batches import Batch, LabeledPairs, evaluation_order
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import FeatureCache
from derm_ray.training.loop import KindProbabilities, TrainingLoop
from derm_ray.training.run.data_loading import batches
from derm_ray.training.run.pair_predictions import predict_pairs

BATCH = 64


@dataclass(frozen=True)
class SplitPredictions:
    """Calibrated probabilities (pairs, classes) of one split, for the pairs as given and with their images swapped."""

    given: KindProbabilities
    swapped: KindProbabilities


def predict_split(
    model: Bundle, config: TrainConfig, pairs: LabeledPairs, features: FeatureCache | None, *, use_gpu: bool
) -> SplitPredictions:
    """Predict a split as the bundle does everywhere: with its test-time augmentation, patient data and temperatures.

    Args:
        model: a single network.
        config: its recipe.
        pairs: the split.
        features: cached activations of the images, to be read in their place; only without test-time augmentation.
        use_gpu: compute on a GPU.

    Raises:
        ImageError: an image cannot be used.
        StorageError: something cannot be read.
        WorkError: the task was lost.
    """
    if features is not None:
        assert model.passes == 1, "activations are of one view and one network"
        return runtime.run_remote(_from_features, model, config, pairs, features, use_gpu, num_gpus=int(use_gpu))
    swapped = [replace(p, clinical_uri=p.dermoscopy_uri, dermoscopy_uri=p.clinical_uri) for p in pairs.pairs]
    return SplitPredictions(
        predict_pairs(model, pairs.pairs, use_gpu=use_gpu), predict_pairs(model, swapped, use_gpu=use_gpu)
    )


def _from_features(
    model: Bundle, config: TrainConfig, pairs: LabeledPairs, features: FeatureCache, use_gpu: bool
) -> SplitPredictions:
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
