"""Dropout of images in training, so that a network answers a single image as well as a pair."""

import hashlib
from dataclasses import dataclass, replace

from derm_ray.domain import LesionPair
from derm_ray.training.batches import Share


@dataclass(frozen=True)
class ModalityDropout:
    """Leaves out one image of a pair with a probability, either one as often; an image that is alone is kept.

    The draws are keyed by seed, epoch and pair, so that they depend on nothing else.
    """

    probability: float
    seed: int
    epoch: int

    def __call__(self, share: Share) -> Share:
        """Return a share whose pairs lack what is left out."""
        return replace(share, pairs=[self._without(pair) for pair in share.pairs]) if self.probability else share

    def _without(self, pair: LesionPair) -> LesionPair:
        if pair.clinical_uri is None or pair.dermoscopy_uri is None or not self._drops(pair.pair_id):
            return pair
        if self._digest(pair.pair_id, "which")[0] & 1:
            return replace(pair, clinical_uri=None)
        return replace(pair, dermoscopy_uri=None)

    def _drops(self, pair_id: str) -> bool:
        return int.from_bytes(self._digest(pair_id, "drop"), "big") < self.probability * 2**64

    def _digest(self, pair_id: str, draw: str) -> bytes:
        key = f"{self.seed}/{self.epoch}/{pair_id}/modality/{draw}".encode()
        return hashlib.blake2b(key, digest_size=8).digest()
