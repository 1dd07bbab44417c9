"""Dropout of patient data in training, so that a network can do without any of it."""

import hashlib
from dataclasses import dataclass, replace

from derm_ray.data.patient import PatientEncoder
from derm_ray.training.batches import Share


@dataclass(frozen=True)
class PatientDropout:
    """Leaves out whole fields: each of a pair's with a probability, and once more all of them with the same.

    The draws are keyed by seed, epoch, pair and field, so that they depend on nothing else.
    """

    encoder: PatientEncoder
    probability: float
    seed: int
    epoch: int

    def __call__(self, share: Share) -> Share:
        """Return a share with zeros in place of what is left out."""
        if share.patient is None or not self.probability:
            return share
        vectors = share.patient.copy()
        for row, pair in enumerate(share.pairs):
            for name, span in self.encoder.spans.items():
                if self._drops(pair.pair_id, name):
                    vectors[row, span] = 0
            if self._drops(pair.pair_id, ""):
                vectors[row] = 0
        return replace(share, patient=vectors)

    def _drops(self, pair_id: str, field: str) -> bool:
        key = f"{self.seed}/{self.epoch}/{pair_id}/patient/{field}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") < self.probability * 2**64
