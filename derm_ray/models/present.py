"""Which images the pairs of a batch have, where some lack one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class Present:
    """The images of a batch of B pairs; a network computes nothing for the others.

    Attributes:
        pairs: B.
        rows: of each modality: the pairs that have its image, as indices into the batch.
        both: the pairs that have both.
        of_both: of each modality: the places of these pairs among its ``rows``.
        shared: the images of each modality, and the pairs with both, over which batch norms compute their statistics:
            those of this batch, or of all workers' where batch norms are synchronized.
    """

    pairs: int
    rows: tuple[Tensor, Tensor]
    both: Tensor
    of_both: tuple[Tensor, Tensor]
    shared: tuple[int, int, int]

    @classmethod
    def of(
        cls, flags: npt.NDArray[np.bool_], device: torch.device | None = None, shared: Sequence[int] | None = None
    ) -> "Present":
        """Return the images of a batch from flags (B, 2), one column per modality; ``shared`` is by default its own."""

        def indices(where: npt.NDArray[np.bool_]) -> Tensor:
            return torch.from_numpy(np.flatnonzero(where)).to(device)

        both = np.asarray(flags.all(1))
        clinical, dermoscopy, pairs = shared if shared is not None else (*flags.sum(0).tolist(), int(both.sum()))
        return cls(
            len(flags),
            (indices(flags[:, 0]), indices(flags[:, 1])),
            indices(both),
            (indices(both[flags[:, 0]]), indices(both[flags[:, 1]])),
            (clinical, dermoscopy, pairs),
        )

    @property
    def sizes(self) -> list[int]:
        """The number of images of each modality in this batch."""
        return [len(rows) for rows in self.rows]

    def spread(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return the logits of some rows as those of the whole batch (B, classes), NaN in all other rows."""
        empty = logits.new_full((self.pairs, logits.shape[1]), torch.nan)
        return empty.index_copy(0, rows, logits)


@contextmanager
def few_images(module: nn.Module, images: int | None) -> Iterator[None]:
    """Let a module's batch norms use their running statistics for fewer than two images, which have none of their own.

    ``images`` is how many they are over all workers that share statistics; ``None``: enough.
    """
    few = images is not None and images < 2
    norms = [layer for layer in module.modules() if few and isinstance(layer, _BatchNorm) and layer.training]
    for layer in norms:
        layer.eval()
    try:
        yield
    finally:
        for layer in norms:
            layer.train()
