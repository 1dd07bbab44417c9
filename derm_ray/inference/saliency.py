"""Saliency maps of CAM-BP networks, and overlays."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import numpy.typing as npt
import torch
from matplotlib import colormaps
from PIL import Image

from derm_ray.bundle import Bundle
from derm_ray.data.preprocessing import PairPixels, Pixels
from derm_ray.domain import Modality
from derm_ray.errors import ConfigError
from derm_ray.inference.precision import default_device, network_input, to_device
from derm_ray.models.heads import HEADS

Map = npt.NDArray[np.float32]
"""Weights of an image's positions, (H, W), >= 0 and summing to 1."""

OPACITY = 0.45


class SaliencyMapper:
    """Computes the CAM-BP weights of images (Ge et al. 2017, Eq. 6 left and Fig. 3), by default on the first GPU.

    Raises:
        ConfigError: the model has no CAM network.
    """

    def __init__(self, bundle: Bundle, device: torch.device | None = None) -> None:
        require_cam(bundle)
        self._device = device or default_device()
        self._networks = [to_device(bundle.member(n).build(), self._device) for n in range(bundle.members)]

    def maps(self, pair: PairPixels) -> Mapping[Modality, Map]:
        """Return the map of every image given, of its upright view; of an ensemble the mean."""
        images = [self._tensor(image) for image in (pair.clinical, pair.dermoscopy)]
        with torch.inference_mode():
            found = [network.saliency(*images) for network in self._networks]
        named = zip(Modality, zip(*found, strict=True), strict=True)
        return {modality: torch.cat(maps).mean(0).cpu().numpy() for modality, maps in named if maps[0] is not None}

    def _tensor(self, image: Pixels | None) -> torch.Tensor | None:
        return network_input(image[None].copy(), self._device) if image is not None else None


def overlay_files(mapper: SaliencyMapper, pair: PairPixels) -> dict[Modality, bytes]:
    """Return the overlay of every image given, as PNG files."""
    files = {}
    for modality, weights in mapper.maps(pair).items():
        image = pair.of(modality)
        assert image is not None
        sink = BytesIO()
        Image.fromarray(overlay(image, weights)).save(sink, "PNG")
        files[modality] = sink.getvalue()
    return files


def require_cam(bundle: Bundle) -> None:
    """Raise a ``ConfigError`` unless a model has a CAM network."""
    if bundle.network.cam is None:
        raise ConfigError(no_maps(bundle))


def no_maps(bundle: Bundle) -> str:
    """Return the message for a model without maps."""
    heads = " or ".join(name for name, head in HEADS.items() if head.needs_map)
    return f"saliency needs a model with head {heads}; this one's head is {bundle.network.head}."


def overlay(image: Pixels, weights: Map) -> Pixels:
    """Return an image (H, W, 3) with its map on it, of any grid, red where the weights are largest."""
    height, width = image.shape[:2]
    scaled = Image.fromarray((255 * weights / max(float(weights.max()), 1e-12)).astype(np.uint8))
    strength = np.asarray(scaled.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 255
    colors = colormaps["turbo"](strength)[..., :3] * 255
    share = OPACITY * strength[..., None]
    return np.asarray(np.clip((1 - share) * image + share * colors, 0, 255), np.uint8)
