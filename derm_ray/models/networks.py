"""Sole-, Share- and Triple-Net (Ge et al. 2017, section 2.1)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from derm_ray.models.trunks import Trunk, TrunkFeatures
from derm_ray.vocabulary import PredictionKind


class PairLogits(NamedTuple):
    """Logits of each sub-network, (B, classes) each; ``None`` where its images are not given.

    ``triple`` is the cross sub-network's, ``None`` for networks without one.
    """

    clinical: Tensor | None
    dermoscopy: Tensor | None
    triple: Tensor | None

    def probabilities(self) -> Mapping[PredictionKind, Tensor]:
        """Return (B, classes) float32 probabilities of every prediction kind the images allow.

        Cross is the mean of the sub-networks' probabilities (section 2.1, last sentences).
        """
        parts = {name: logits.float().softmax(1) for name, logits in self._asdict().items() if logits is not None}
        kinds = {kind: parts[kind] for kind in (PredictionKind.CLINICAL, PredictionKind.DERMOSCOPY) if kind in parts}
        if len(kinds) == 2:
            kinds[PredictionKind.CROSS] = torch.stack(list(parts.values())).mean(0)
        return kinds


class Stream(nn.Module):
    """One sub-network: a trunk and its head."""

    def __init__(self, trunk: Trunk, head: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, TrunkFeatures]:
        """Return logits (B, classes) and the trunk's maps."""
        features: TrunkFeatures = self.trunk(images_BCHW)
        return self.head(features.last_BCHW), features


class CrossSubnetwork(nn.Module):
    """Triple-Net's third sub-network C_T: concat, conv3x3, batch norm, ReLU, head (section 2.1, Eq. 4)."""

    def __init__(self, channels: int, head: nn.Module) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.head = head

    def forward(self, clinical_BCHW: Tensor, dermoscopy_BCHW: Tensor) -> Tensor:
        """Return logits (B, classes) from the two taps (B, C, H, W)."""
        logits: Tensor = self.head(self.fuse(torch.cat((clinical_BCHW, dermoscopy_BCHW), 1)))
        return logits


class PairNetwork(nn.Module, ABC):
    """What all networks for pairs share: ``forward(clinical, dermoscopy) -> PairLogits``.

    Images are normalised, (B, 3, H, W); either may be ``None``, not both.
    """

    @abstractmethod
    def forward(self, clinical_BCHW: Tensor | None, dermoscopy_BCHW: Tensor | None) -> PairLogits:
        """Return the logits of each sub-network whose images are given."""


class SoleNet(PairNetwork):
    """Two sub-networks with their own weights, one per modality (Fig. 1a, Eq. 1-2)."""

    def __init__(self, clinical: Stream, dermoscopy: Stream) -> None:
        super().__init__()
        self.clinical = clinical
        self.dermoscopy = dermoscopy

    def forward(self, clinical_BCHW: Tensor | None, dermoscopy_BCHW: Tensor | None) -> PairLogits:
        """See :class:`PairNetwork`."""
        return PairLogits(
            self.clinical(clinical_BCHW)[0] if clinical_BCHW is not None else None,
            self.dermoscopy(dermoscopy_BCHW)[0] if dermoscopy_BCHW is not None else None,
            None,
        )


class ShareNet(PairNetwork):
    """One sub-network for both modalities (Eq. 3), and optionally C_T on its taps (Triple-Net, Eq. 4-5)."""

    def __init__(self, stream: Stream, cross: CrossSubnetwork | None = None) -> None:
        super().__init__()
        self.stream = stream
        self.cross = cross

    def forward(self, clinical_BCHW: Tensor | None, dermoscopy_BCHW: Tensor | None) -> PairLogits:
        """See :class:`PairNetwork`; both modalities run through the trunk as one batch."""
        if clinical_BCHW is None or dermoscopy_BCHW is None:
            given = clinical_BCHW if clinical_BCHW is not None else dermoscopy_BCHW
            assert given is not None, "at least one modality"
            logits = self.stream(given)[0]
            return PairLogits(logits, None, None) if clinical_BCHW is not None else PairLogits(None, logits, None)
        both, features = self.stream(torch.cat((clinical_BCHW, dermoscopy_BCHW)))
        clinical, dermoscopy = both.chunk(2)
        triple = self.cross(*features.tap_BCHW.chunk(2)) if self.cross is not None else None
        return PairLogits(clinical, dermoscopy, triple)
