"""Ensembles and test-time augmentation: the mean of what engines answer for each view."""

from collections.abc import Mapping, Sequence

import numpy as np

from derm_ray.data.patient import Vectors
from derm_ray.domain import PredictionKind
from derm_ray.inference.engines.engine import Engine, Images, Probabilities
from derm_ray.models.views import TTA, views


class AveragedEngine:
    """The mean of the probabilities of some engines, one per network of a bundle, over the views of the images.

    Both images of a pair are seen in the same view.
    """

    def __init__(self, engines: Sequence[Engine], tta: str) -> None:
        self.name = engines[0].name
        self._engines = engines
        self._tta = tta

    def run(
        self, clinical: Images | None, dermoscopy: Images | None, patient: Vectors | None = None
    ) -> Mapping[PredictionKind, Probabilities]:
        """See :class:`derm_ray.inference.engines.engine.Engine`."""
        seen = [views(i, self._tta) if i is not None else [None] * TTA[self._tta] for i in (clinical, dermoscopy)]
        pairs = list(zip(*seen, strict=True))
        answers = [engine.run(one, other, patient) for engine in self._engines for one, other in pairs]
        return {kind: np.mean([answer[kind] for answer in answers], 0, np.float32) for kind in answers[0]}
