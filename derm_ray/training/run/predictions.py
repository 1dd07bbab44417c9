"""Predictions of a trained network for whole splits, computed on a worker of the cluster."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import ray
import torch

from derm_ray.bundle import load_bundle
from derm_ray.errors import DermRayError
from derm_ray.inference.predictor import temper
from derm_ray.models.factory import build_network
from derm_ray.training.batches import Batch, evaluation_order
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import FeatureCache
from derm_ray.training.loop import KindProbabilities, TrainingLoop
from derm_ray.training.run.data_loading import LabeledPairs, batches

BATCH = 64


@dataclass(frozen=True)
class SplitPredictions:
    """Calibrated probabilities of one split, (pairs, classes) per prediction kind.

    Attributes:
        given: for the pairs as they are.
        swapped: with the clinical and the dermoscopy image swapped.
    """

    given: KindProbabilities
    swapped: KindProbabilities


def predict_split(
    bundle_uri: str, config: TrainConfig, pairs: LabeledPairs, features: FeatureCache | None, *, use_gpu: bool
) -> SplitPredictions:
    """Run a saved network over a split, reading images or their cached activations.

    Args:
        bundle_uri: what :func:`derm_ray.training.run.driver.train` returned.
        config: its recipe.
        pairs: the split.
        features: its activations, without mirrored images.
        use_gpu: run on a GPU.

    Raises:
        ImageError: an image cannot be used.
        BundleError, StorageError: something cannot be read.
    """
    task = ray.remote(num_cpus=1, num_gpus=1 if use_gpu else 0)(_predict)
    predictions, error = ray.get(task.remote(bundle_uri, config, pairs, features, use_gpu=use_gpu))
    if error is not None:
        raise error
    return predictions  # type: ignore[no-any-return]


def _predict(
    bundle_uri: str, config: TrainConfig, pairs: LabeledPairs, features: FeatureCache | None, *, use_gpu: bool
) -> tuple[SplitPredictions | None, DermRayError | None]:
    try:
        model = load_bundle(bundle_uri)
        network = build_network(model.network, freeze=config.freeze)
        network.load_state_dict(dict(model.weights))
        loop = TrainingLoop(config, network, torch.device("cuda" if use_gpu else "cpu"))

        def predict(*, swapped: bool) -> KindProbabilities:
            loaded = batches(
                pairs,
                evaluation_order(len(pairs), BATCH),
                config.preprocessing,
                rank=0,
                world_size=1,
                features=features,
            )
            raw = loop.predict(_swapped(loaded) if swapped else loaded, len(pairs))
            return {kind: temper(p, model.calibration.temperatures.get(kind, 1.0)) for kind, p in raw.items()}

        return SplitPredictions(predict(swapped=False), predict(swapped=True)), None
    except DermRayError as error:
        return None, error


def _swapped(loaded: Iterator[Batch | DermRayError]) -> Iterator[Batch | DermRayError]:
    for batch in loaded:
        if isinstance(batch, DermRayError):
            yield batch
        else:
            yield replace(batch, clinical=batch.dermoscopy, dermoscopy=batch.clinical)
