"""Augmentation of training images: named policies, drawn from the seed, the epoch, the pair and the modality alone."""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np

from derm_ray.data.preprocessing import Pixels, Preprocessing
from derm_ray.domain import LesionPair, Modality

ASPECT = 4 / 3
"""Bound on how much a crop is wider than high, or higher than wide."""
CROP_MARGIN = 1.25
"""Side of the images that crops are taken from, in sides of the network's input."""


@dataclass(frozen=True)
class Policy:
    """What may be done to an image, in this order.

    Attributes:
        crop: least share of the image's area that a crop keeps; 1 takes the whole image.
        mirror: mirrored left-right with probability 1/2.
        turns: turned by 0, 90, 180 or 270 degrees.
        color: brightness, contrast and saturation change by a factor of up to 1 +- this, the hue by a tenth of it.
        blur: probability of a Gaussian blur, of 0.1 to 1.5 pixels.
        erase: probability that a rectangle of 2 to 20% of the area becomes gray (Zhong et al. 2020).
    """

    crop: float = 1.0
    mirror: bool = False
    turns: bool = False
    color: float = 0.0
    blur: float = 0.0
    erase: float = 0.0

    @property
    def pixels_change(self) -> bool:
        """Whether it does more than mirror."""
        return self != Policy(mirror=self.mirror)


POLICIES = {
    "none": Policy(),
    "mirror": Policy(mirror=True),
    "standard": Policy(crop=0.5, mirror=True, turns=True, color=0.2),
    "strong": Policy(crop=0.25, mirror=True, turns=True, color=0.4, blur=0.2, erase=0.25),
}


@dataclass(frozen=True)
class Augmentation:
    """The policy of one epoch."""

    policy: Policy
    seed: int
    epoch: int

    def before(self, spec: Preprocessing) -> Preprocessing:
        """Return how images are loaded for :meth:`apply`: crops are taken from larger ones."""
        return replace(spec, size=round(spec.size * CROP_MARGIN)) if self.policy.crop < 1 else spec

    def choose(self, pair: LesionPair) -> LesionPair:
        """Return a pair with one image of each modality, drawn where it has several."""
        if not pair.has_several:
            return pair
        clinical, dermoscopy = (self._one(pair, modality) for modality in Modality)
        return replace(pair, clinical_uri=clinical, dermoscopy_uri=dermoscopy)

    def _one(self, pair: LesionPair, modality: Modality) -> str | None:
        uris = pair.uris(modality)
        return None if not uris else uris[int.from_bytes(self._digest(pair, modality, 8, b"image"), "big") % len(uris)]

    def mirrors(self, pair: LesionPair, modality: Modality) -> bool:
        """Return whether an image is mirrored: a fair coin."""
        return self.policy.mirror and bool(self._digest(pair, modality, 1)[0] & 1)

    def apply(self, image: Pixels, size: int, pair: LesionPair, modality: Modality) -> Pixels:
        """Return an image (S, S, 3) as the network sees it in this epoch: (size, size, 3), S >= size."""
        if not self.policy.pixels_change:
            return image[:, ::-1] if self.mirrors(pair, modality) else image
        rng = np.random.default_rng(int.from_bytes(self._digest(pair, modality, 16), "big"))
        return _changed(self.policy, image, size, rng, mirrored=self.mirrors(pair, modality))

    def _digest(self, pair: LesionPair, modality: Modality, size: int, person: bytes = b"") -> bytes:
        key = f"{self.seed}/{self.epoch}/{pair.pair_id}/{modality}".encode()
        return hashlib.blake2b(key, digest_size=size, person=person).digest()


def _changed(policy: Policy, image: Pixels, size: int, rng: np.random.Generator, *, mirrored: bool) -> Pixels:
    import torch  # tasks that decode do not load it where they need not
    from torchvision.transforms.v2 import functional

    top, left, height, width = _crop(len(image), policy.crop, rng)
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    tensor = functional.resized_crop(tensor, top, left, height, width, [size, size], antialias=True)
    if mirrored:
        tensor = tensor.flip(2)
    if policy.turns:
        tensor = tensor.rot90(int(rng.integers(4)), (1, 2))
    if policy.color:
        brightness, contrast, saturation = rng.uniform(1 - policy.color, 1 + policy.color, 3)
        tensor = functional.adjust_brightness(tensor, brightness)
        tensor = functional.adjust_contrast(tensor, contrast)
        tensor = functional.adjust_saturation(tensor, saturation)
        tensor = functional.adjust_hue(tensor, rng.uniform(-policy.color, policy.color) / 10)
    if rng.random() < policy.blur:
        tensor = functional.gaussian_blur(tensor, [7, 7], [rng.uniform(0.1, 1.5)])
    if rng.random() < policy.erase:
        top, left, height, width = _rectangle(size, rng.uniform(0.02, 0.2), rng)
        tensor = functional.erase(tensor, top, left, height, width, torch.tensor(127, dtype=torch.uint8))
    changed: Pixels = tensor.permute(1, 2, 0).contiguous().numpy()
    return changed


def _crop(side: int, least: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    return (0, 0, side, side) if least == 1 else _rectangle(side, rng.uniform(least, 1), rng)


def _rectangle(side: int, area: float, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return top, left, height and width of a rectangle with a share of a square's area, somewhere in it."""
    aspect = math.exp(rng.uniform(-1, 1) * math.log(ASPECT))
    height = min(side, max(1, round(side * math.sqrt(area / aspect))))
    width = min(side, max(1, round(side * math.sqrt(area * aspect))))
    top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
    return int(top), int(left), height, width
