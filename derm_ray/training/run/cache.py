"""Filling feature caches with Ray Data: one row per file, one trunk per actor."""

import logging
from collections.abc import Mapping, Sequence

import ray
import ray.data
import torch

from derm_ray import storage
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.datasets import Row, dataset_of, objects, packed, unpacked
from derm_ray.domain import LesionPair, Split
from derm_ray.errors import ConfigError, ImageError, ImageErrorCode, StorageError
from derm_ray.inference.precision import resolve_precision
from derm_ray.models.networks import PairNetwork, Stream
from derm_ray.models.trunks import Trunk
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import PAIRS_PER_FILE, FeatureCache, evict_caches
from derm_ray.training.feature_writer import FeatureWriter, plan_cache
from derm_ray.training.run.data_loading import LabeledPairs

logger = logging.getLogger(__name__)


class _FeatureActor:
    def __init__(self, trunk: "ray.ObjectRef[Trunk]", spec: Preprocessing, precision: str, *, use_gpu: bool) -> None:
        self._writer = FeatureWriter(ray.get(trunk), spec, precision, torch.device("cuda" if use_gpu else "cpu"))

    def __call__(self, row: Row, cache: FeatureCache) -> Row:
        index, pairs = unpacked(row)
        try:
            self._writer.write(cache, index, pairs)
        except (ImageError, StorageError) as error:
            return packed(error)
        return packed(None)


def plan_features(
    config: TrainConfig, trunk: Trunk, splits: Mapping[Split, LabeledPairs], folder: str, *, use_gpu: bool
) -> dict[Split, FeatureCache]:
    """Return the feature caches of some splits; train's includes mirrored images if the recipe mirrors.

    Args:
        config: the recipe.
        trunk: with its weights and a frozen stem.
        splits: what to keep.
        folder: of all caches.
        use_gpu: compute on GPUs.
    """
    precision, spec = _precision(config, use_gpu=use_gpu), config.preprocessing
    return {
        split: plan_cache(folder, trunk, spec, precision, part.listed, mirrored=config.mirror and split is Split.TRAIN)
        for split, part in splits.items()
    }


def prepare_features(
    config: TrainConfig,
    trunk: Trunk,
    splits: Mapping[Split, LabeledPairs],
    folder: str,
    *,
    limit_gib: float,
    use_gpu: bool,
) -> dict[Split, FeatureCache]:
    """Plan, allocate and fill the caches of some splits; see :func:`plan_features`.

    Args:
        config, trunk, splits, folder, use_gpu: see there.
        limit_gib: bound on the folder.

    Raises:
        ConfigError: the limit is too small.
        ImageError, StorageError: see :func:`fill`.
    """
    caches = plan_features(config, trunk, splits, folder, use_gpu=use_gpu)
    evict_caches(folder, [(cache, len(splits[split].listed)) for split, cache in caches.items()], limit_gib)
    shared, precision = ray.put(trunk), _precision(config, use_gpu=use_gpu)
    for split, cache in caches.items():
        fill(cache, splits[split].listed, shared, config.preprocessing, precision, use_gpu=use_gpu)
    return caches


def _precision(config: TrainConfig, *, use_gpu: bool) -> str:
    # GPUs belong to the workers: the driver may have none to query.
    precision = resolve_precision(config.precision, torch.device("cpu")) if not use_gpu else config.precision
    return "bf16" if precision == "auto" else precision


def common_stem(config: TrainConfig, network: PairNetwork) -> Trunk:
    """Return the trunk whose frozen layers are shared by the whole network.

    Raises:
        ConfigError: there are no frozen layers, or they differ between trunks.
    """
    if config.freeze == "none":
        raise ConfigError(
            "--cache stores the activations of frozen layers, but this recipe freezes none. Remove --cache, "
            "or give --set freeze=pool4."
        )
    if network.cam is not None and not network.cam.from_stem:
        raise ConfigError(
            "--cache: the CAM network does not share the frozen layers and needs the images. Remove "
            "--cache, or train it with the same trunk, freeze and --init-weights."
        )
    trunks = [module.trunk for module in network.modules() if isinstance(module, Stream)]
    first = trunks[0].features[: trunks[0].frozen].state_dict()
    for trunk in trunks[1:]:
        other = trunk.features[: trunk.frozen].state_dict()
        if not all(torch.equal(value, other[key]) for key, value in first.items()):
            raise ConfigError("--cache: the frozen layers of the two trunks differ. Remove --cache.")
    return trunks[0]


def fill(
    cache: FeatureCache,
    pairs: Sequence[LesionPair],
    trunk: "ray.ObjectRef[Trunk]",
    spec: Preprocessing,
    precision: str,
    *,
    use_gpu: bool,
) -> None:
    """Compute the missing files of a cache, on all free CPUs, or GPUs, of the cluster.

    Args:
        cache: see :func:`derm_ray.training.feature_cache.plan_cache`.
        pairs: with both images.
        trunk: with its weights.
        spec: preprocessing.
        precision: ``fp32`` or ``bf16``.
        use_gpu: one GPU per actor.

    Raises:
        ImageError: an image cannot be used.
        StorageError: storage failed.
    """
    there = set(storage.list_files(cache.uri))
    missing = [
        (index, pairs[start : start + PAIRS_PER_FILE])
        for index, start in enumerate(range(0, len(pairs), PAIRS_PER_FILE))
        if cache.file(index) not in there
    ]
    if not missing:
        return
    logger.info("computing the frozen layers' activations of %d pairs", len(pairs))
    kind = "GPU" if use_gpu else "CPU"
    actors = max(1, min(len(missing), int(ray.cluster_resources().get(kind, 1)) - (0 if use_gpu else 1)))
    written = dataset_of(missing).map(
        _FeatureActor,
        fn_kwargs={"cache": cache},
        fn_constructor_args=(trunk, spec, precision),
        fn_constructor_kwargs={"use_gpu": use_gpu},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
    )
    for error in objects(written):
        if isinstance(error, ImageError) and error.code is ImageErrorCode.STORAGE:
            raise StorageError(error.message) from error
        if error is not None:
            raise error
