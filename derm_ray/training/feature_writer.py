"""Computing the features of a :class:`derm_ray.training.feature_cache.FeatureCache`."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from derm_ray import storage
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import LesionPair
from derm_ray.inference.precision import autocast
from derm_ray.models.trunks import Trunk
from derm_ray.training.batches import load_images
from derm_ray.training.feature_cache import Activations, FeatureCache

PAIRS_AT_ONCE = 16
IMAGES_AT_ONCE = 4


class FeatureWriter:
    """Computes and writes files of a :class:`derm_ray.training.feature_cache.FeatureCache`.

    Args:
        trunk: with its weights; only the stem is used.
        spec: preprocessing.
        precision: ``fp32`` or ``bf16``.
        device: where to run.
    """

    def __init__(self, trunk: Trunk, spec: Preprocessing, precision: str, device: torch.device) -> None:
        self._trunk = trunk.eval().to(device).to(memory_format=torch.channels_last)
        self._spec = spec
        self._precision = precision
        self._device = device
        self._executor = ThreadPoolExecutor(IMAGES_AT_ONCE)

    def write(self, cache: FeatureCache, index: int, pairs: Sequence[LesionPair]) -> None:
        """Compute one file.

        Args:
            cache: where to.
            index: of the file.
            pairs: its pairs, in order.

        Raises:
            ImageError: an image cannot be used; the message names pair and file.
        """
        groups = [pairs[start : start + PAIRS_AT_ONCE] for start in range(0, len(pairs), PAIRS_AT_ONCE)]
        cache.write(index, np.concatenate([self._compute(cache, group) for group in groups]))

    def _compute(self, cache: FeatureCache, pairs: Sequence[LesionPair]) -> Activations:
        images = list(load_images(pairs, self._spec, self._executor))
        if cache.mirrored:
            images += [image[:, :, ::-1] for image in images]
        batch = torch.from_numpy(np.concatenate(images)).to(self._device)
        with torch.inference_mode(), autocast(self._precision, self._device):
            features = self._trunk.stem(batch.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        bits = features.bfloat16().view(torch.uint16) if cache.dtype == "uint16" else features.float()
        array: Activations = bits.contiguous().cpu().numpy()
        return array.reshape(len(images), len(pairs), *cache.shape).swapaxes(0, 1)


def plan_cache(
    folder: str, trunk: Trunk, spec: Preprocessing, precision: str, pairs: Sequence[LesionPair], *, mirrored: bool
) -> FeatureCache:
    """Return the cache for a list of pairs; its name is a digest of everything that determines the values.

    Args:
        folder: of all caches.
        trunk: with its weights.
        spec: preprocessing.
        precision: ``fp32`` or ``bf16``.
        pairs: with both images.
        mirrored: keep the mirrored images' activations too.
    """
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
