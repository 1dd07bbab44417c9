"""Filling feature caches with Ray Data: one row per file, one trunk per actor."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import ray
import ray.data
import torch

from derm_ray import storage
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import LesionPair, Split
from derm_ray.errors import ConfigError, ImageError, StorageError, counted
from derm_ray.inference.precision import autocast, resolve_precision, to_device
from derm_ray.models.networks import PairNetwork, Stream
from derm_ray.models.trunks import Trunk
from derm_ray.ray_rows import Row, dataset_of, objects, packed, unpacked
from derm_ray.training.batches import LabeledPairs, images_of, load_images
from derm_ray.training.config import TrainConfig
from derm_ray.training.feature_cache import PAIRS_PER_FILE, Activations, FeatureCache, evict_caches

PAIRS_AT_ONCE = 16
IMAGES_AT_ONCE = 4

logger = logging.getLogger(__name__)


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
    if config.policy.pixels_change:
        raise ConfigError(
            f"--cache stores the activations of whole images, which augmentation={config.augmentation} changes. Remove "
            "--cache, or give --set augmentation=mirror."
        )
    if network.cam is not None and not network.cam.from_stem:
        raise ConfigError(
            "--cache: the CAM network does not share the frozen layers and needs the images. Remove "
            "--cache, or train it with the same trunk, freeze and --init-weights."
        )
    first, *others = [module.trunk for module in network.modules() if isinstance(module, Stream)]
    stem = first.stem_state()
    for trunk in others:
        other = trunk.stem_state()
        if not all(torch.equal(value, other[key]) for key, value in stem.items()):
            raise ConfigError("--cache: the frozen layers of the two trunks differ. Remove --cache.")
    return first


def plan_cache(
    folder: str, trunk: Trunk, spec: Preprocessing, precision: str, pairs: Sequence[LesionPair], *, mirrored: bool
) -> FeatureCache:
    """Return the cache for a list of pairs; its name is a digest of everything that determines the values."""
    with torch.inference_mode():
        _, channels, height, width = trunk.eval().cpu().stem(torch.zeros(1, 3, spec.size, spec.size)).shape
    dtype = "uint16" if precision == "bf16" else "float32"
    key = {
        "weights": [storage.sha256(v.cpu().contiguous().numpy().tobytes()) for v in trunk.stem_state().values()],
        "trunk": trunk.name,
        "preprocessing": spec.to_json(),
        "dtype": dtype,
        "mirrored": mirrored,
        "images": [[pair.clinical_uri, pair.dermoscopy_uri] for pair in pairs],
    }
    return FeatureCache(storage.join(folder, storage.digest(key)[:16]), (height, width, channels), dtype, mirrored)


def _precision(config: TrainConfig, *, use_gpu: bool) -> str:
    # GPUs belong to the workers: the driver may have none to query.
    precision = resolve_precision(config.precision, torch.device("cpu")) if not use_gpu else config.precision
    return "bf16" if precision == "auto" else precision


def prepare_features(
    wanted: Sequence[tuple[TrainConfig, Trunk, Mapping[Split, LabeledPairs]]],
    folder: str,
    *,
    limit_gib: float,
    use_gpu: bool,
) -> list[dict[Split, FeatureCache]]:
    """Return the filled feature caches of some recipes' splits; train's include mirrored images if the recipe mirrors.

    Space in the folder is allocated for all of them together. All free CPUs, or GPUs, of the cluster compute.

    Raises:
        ConfigError: the limit is too small.
        ImageError: an image cannot be used.
        StorageError: storage failed.
    """
    planned: list[dict[Split, FeatureCache]] = []
    sizes: list[tuple[FeatureCache, int]] = []
    for config, trunk, splits in wanted:
        precision, mirrors = _precision(config, use_gpu=use_gpu), {Split.TRAIN} if config.policy.mirror else set()
        planned.append(
            {
                split: plan_cache(
                    folder, trunk, config.preprocessing, precision, part.listed, mirrored=split in mirrors
                )
                for split, part in splits.items()
            }
        )
        sizes += [(cache, len(splits[split].listed)) for split, cache in planned[-1].items()]
    evict_caches(folder, sizes, limit_gib)
    for (config, trunk, splits), caches in zip(wanted, planned, strict=True):
        missing = [task for split, cache in caches.items() for task in _missing(cache, splits[split].listed)]
        if missing:
            _compute(missing, trunk, config.preprocessing, _precision(config, use_gpu=use_gpu), use_gpu=use_gpu)
    return planned


_File = tuple[FeatureCache, int, Sequence[LesionPair]]
"""A cache, the index of a file in it, and the pairs in that."""


def _missing(cache: FeatureCache, pairs: Sequence[LesionPair]) -> Iterator[_File]:
    there = set(storage.list_files(cache.uri))
    for index, start in enumerate(range(0, len(pairs), PAIRS_PER_FILE)):
        if cache.file(index) not in there:
            yield cache, index, pairs[start : start + PAIRS_PER_FILE]


def _compute(missing: Sequence[_File], trunk: Trunk, spec: Preprocessing, precision: str, *, use_gpu: bool) -> None:
    total = sum(len(pairs) for *_, pairs in missing)
    logger.info("computing the frozen layers' activations of %s", counted(total, "pair"))
    free = int(ray.cluster_resources().get("GPU" if use_gpu else "CPU", 1)) - (0 if use_gpu else 1)
    written = dataset_of(missing).map(
        _FeatureActor,
        fn_constructor_args=(ray.put(trunk), spec, precision),
        fn_constructor_kwargs={"use_gpu": use_gpu},
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(len(missing), free))),
        num_cpus=1,
        num_gpus=1 if use_gpu else None,
    )
    for error in objects(written):
        if error is not None:
            raise error


class _FeatureActor:
    def __init__(self, trunk: "ray.ObjectRef[Trunk]", spec: Preprocessing, precision: str, *, use_gpu: bool) -> None:
        self._writer = FeatureWriter(ray.get(trunk), spec, precision, torch.device("cuda" if use_gpu else "cpu"))

    def __call__(self, row: Row) -> Row:
        try:
            self._writer.write(*unpacked(row))
        except (ImageError, StorageError) as error:
            return packed(error)
        return packed(None)


class FeatureWriter:
    """Computes files of feature caches with a trunk's stem, in ``fp32`` or ``bf16``."""

    def __init__(self, trunk: Trunk, spec: Preprocessing, precision: str, device: torch.device) -> None:
        self._trunk = to_device(trunk.eval(), device)
        self._spec = spec
        self._precision = precision
        self._device = device
        self._executor = ThreadPoolExecutor(IMAGES_AT_ONCE)

    def write(self, cache: FeatureCache, index: int, pairs: Sequence[LesionPair]) -> None:
        """Compute the file of some pairs, in order, and write it atomically; errors as of :func:`load_images`."""
        groups = [pairs[start : start + PAIRS_AT_ONCE] for start in range(0, len(pairs), PAIRS_AT_ONCE)]
        records = np.concatenate([self._compute(cache, group) for group in groups])
        storage.write_bytes(cache.file(index), np.ascontiguousarray(records, cache.dtype).tobytes())

    def _compute(self, cache: FeatureCache, pairs: Sequence[LesionPair]) -> Activations:
        images, present = load_images(pairs, self._spec, self._executor), images_of(pairs).T
        if cache.mirrored:
            images, present = np.concatenate([images, images[:, :, :, ::-1]]), np.concatenate([present, present])
        batch = torch.from_numpy(images[present]).to(self._device)
        with torch.inference_mode(), autocast(self._precision, self._device):
            features = self._trunk.stem(batch.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        bits = features.bfloat16().view(torch.uint16) if cache.dtype == "uint16" else features.float()
        array: Activations = np.zeros((*present.shape, *cache.shape), cache.dtype)
        array[present] = bits.contiguous().cpu().numpy()
        return array.swapaxes(0, 1)
