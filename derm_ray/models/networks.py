"""Sole-, Share- and Triple-Net (Ge et al. 2017, section 2.1)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from derm_ray.domain import Modality, PredictionKind
from derm_ray.models.cam import CamStream
from derm_ray.models.heads import Head
from derm_ray.models.trunks import Trunk


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

    def plus(self, term: Tensor) -> "PairLogits":
        """Return the logits with a term (B, classes) added to those of each sub-network."""
        return PairLogits(*(logits + term if logits is not None else None for logits in self))


class PairMaps(NamedTuple):
    """One map per modality, (B, ...) each; ``None`` where its images are not given."""

    clinical: Tensor | None
    dermoscopy: Tensor | None


class ImageEncoding(NamedTuple):
    """Encoded images: logits (B, classes), the trunk's tap (B, C, H, W), CAM-BP weights (B, H', W') if any."""

    logits: Tensor
    tap: Tensor
    map: Tensor | None


def _as_one_batch(function: Callable[[Tensor], Tensor], pair: PairMaps) -> PairMaps:
    """Apply a function to both modalities at once."""
    given = [tensor for tensor in pair if tensor is not None]
    results = iter(function(torch.cat(given)).chunk(len(given)))
    return PairMaps(*(next(results) if tensor is not None else None for tensor in pair))


class PairCam(nn.Module):
    """The frozen CAM network of a pair network: one stream for both modalities, or one for each.

    With ``from_stem`` it reads the output of the pair network's frozen stem, not images.
    """

    def __init__(self, *streams: CamStream, from_stem: bool) -> None:
        super().__init__()
        self.streams = nn.ModuleList(streams)
        self.from_stem = from_stem

    def forward(self, inputs: PairMaps) -> PairMaps:
        """Return weights (B, H, W) per modality, >= 0 and summing to 1."""
        if len(self.streams) == 1:
            return _as_one_batch(self.streams[0], inputs)
        pairs = zip(self.streams, inputs, strict=True)
        return PairMaps(*(stream(tensor) if tensor is not None else None for stream, tensor in pairs))

    def train(self, mode: bool = True) -> "PairCam":
        """Stay in evaluation mode: the CAM network is trained separately."""
        del mode
        return super().train(False)


class Stream(nn.Module):
    """One sub-network: a trunk and its head."""

    def __init__(self, trunk: Trunk, head: Head) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, stem_BCHW: Tensor, map_BHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return logits (B, classes) and the trunk's tap, from the output of the trunk's stem."""
        features = self.trunk.body(stem_BCHW)
        return self.head(features.last_BCHW, map_BHW), features.tap_BCHW


class CrossSubnetwork(nn.Module):
    """Triple-Net's third sub-network C_T: concat, conv3x3, batch norm, ReLU, head (section 2.1, Eq. 4)."""

    def __init__(self, channels: int, head: Head) -> None:
        super().__init__()
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.head = head

    def forward(self, clinical_BCHW: Tensor, dermoscopy_BCHW: Tensor, maps: PairMaps) -> Tensor:
        """Return logits (B, classes) from the two taps (B, C, H, W); the map is the mean of both modalities'."""
        mean = None if maps.clinical is None or maps.dermoscopy is None else (maps.clinical + maps.dermoscopy) / 2
        logits: Tensor = self.head(self.fuse(torch.cat((clinical_BCHW, dermoscopy_BCHW), 1)), mean)
        return logits


class PatientNetwork(nn.Module):
    """Log-odds of the classes from encoded patient data: a hidden layer, and an output that starts at zero.

    The input is that of :class:`derm_ray.data.patient.PatientEncoder`, zeros where all is missing.
    """

    hidden = 32

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.width = width
        first, output = nn.Linear(width, self.hidden), nn.Linear(self.hidden, classes)
        self.layers = nn.Sequential(first, nn.ReLU(), output)
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def forward(self, patient_BF: Tensor) -> Tensor:
        """Return (B, classes), in float32."""
        with torch.autocast(patient_BF.device.type, enabled=False):
            term: Tensor = self.layers(patient_BF.float())
        return term


class PairNetwork(nn.Module, ABC):
    """Base of all pair networks: ``forward(clinical, dermoscopy, patient) -> PairLogits``.

    Images are (B, 3, H, W), RGB 0..255, uint8 or float; either may be ``None``, not both.

    Attributes:
        cam: the CAM network of CAM-BP heads.
        patient: of networks that use patient data; its term is added to the logits of every sub-network.
    """

    def __init__(self, cam: PairCam | None, patient: PatientNetwork | None = None) -> None:
        super().__init__()
        self.cam = cam
        self.patient = patient

    def forward(
        self,
        clinical_BCHW: Tensor | None,
        dermoscopy_BCHW: Tensor | None,
        patient_BF: Tensor | None = None,
        *,
        from_stem: bool = False,
    ) -> PairLogits:
        """Return the logits of each sub-network whose images are given.

        Args:
            clinical_BCHW, dermoscopy_BCHW: images, or what :meth:`stems` returned for them.
            patient_BF: encoded patient data, only of networks that use it; ``None``: all is missing.
            from_stem: the images are what :meth:`stems` returned.
        """
        inputs = PairMaps(clinical_BCHW, dermoscopy_BCHW)
        stems = inputs if from_stem else self.stems(inputs)
        logits = self._classify(stems, self._maps(inputs, stems))
        if self.patient is None:
            assert patient_BF is None, "this network takes no patient data"
            return logits
        if patient_BF is not None:
            return logits.plus(self.patient(patient_BF))
        given = next(tensor for tensor in inputs if tensor is not None)
        return logits.plus(self.patient(torch.zeros(len(given), self.patient.width, device=given.device)))

    def encode(self, images_BCHW: Tensor, modality: Modality) -> ImageEncoding:
        """Return what images of one modality give; :meth:`forward` is this, the cross sub-network and the patient's."""
        inputs = PairMaps(**{name: images_BCHW if name == modality else None for name in PairMaps._fields})
        stems = self.stems(inputs)
        stem, weights = getattr(stems, modality), getattr(self._maps(inputs, stems), modality)
        logits, tap = self.stream_of(modality)(stem, weights)
        return ImageEncoding(logits, tap, weights)

    @abstractmethod
    def stream_of(self, modality: Modality) -> Stream:
        """Return the sub-network that classifies a modality's images."""

    @property
    def encodes_alike(self) -> bool:
        """Whether an image's encoding does not depend on its modality."""
        shared_cam = self.cam is None or len(self.cam.streams) == 1
        return shared_cam and self.stream_of(Modality.CLINICAL) is self.stream_of(Modality.DERMOSCOPY)

    def saliency(self, clinical_BCHW: Tensor | None, dermoscopy_BCHW: Tensor | None) -> PairMaps:
        """Return the CAM-BP weights of each image, (B, H, W); see :meth:`forward`."""
        inputs = PairMaps(clinical_BCHW, dermoscopy_BCHW)
        return self._maps(inputs, self.stems(inputs) if self.cam is not None and self.cam.from_stem else inputs)

    def _maps(self, inputs: PairMaps, stems: PairMaps) -> PairMaps:
        if self.cam is None:
            return PairMaps(None, None)
        maps: PairMaps = self.cam(stems if self.cam.from_stem else inputs)
        return maps

    @abstractmethod
    def stems(self, images: PairMaps) -> PairMaps:
        """Return the output of the trunks' frozen layers."""

    @abstractmethod
    def _classify(self, stems: PairMaps, maps: PairMaps) -> PairLogits:
        """Return logits from the stems' output and the saliency maps."""


class SoleNet(PairNetwork):
    """Two sub-networks with their own weights, one per modality (Fig. 1a, Eq. 1-2)."""

    def __init__(
        self,
        clinical: Stream,
        dermoscopy: Stream,
        cam: PairCam | None = None,
        patient: PatientNetwork | None = None,
    ) -> None:
        super().__init__(cam, patient)
        self.clinical = clinical
        self.dermoscopy = dermoscopy

    def stream_of(self, modality: Modality) -> Stream:
        """See :class:`PairNetwork`."""
        return self.clinical if modality is Modality.CLINICAL else self.dermoscopy

    def stems(self, images: PairMaps) -> PairMaps:
        """See :class:`PairNetwork`."""
        pairs = zip((self.clinical, self.dermoscopy), images, strict=True)
        return PairMaps(*(stream.trunk.stem(image) if image is not None else None for stream, image in pairs))

    def _classify(self, stems: PairMaps, maps: PairMaps) -> PairLogits:
        parts = zip((self.clinical, self.dermoscopy), stems, maps, strict=True)
        clinical, dermoscopy = (stream(stem, one)[0] if stem is not None else None for stream, stem, one in parts)
        return PairLogits(clinical, dermoscopy, None)


class ShareNet(PairNetwork):
    """One sub-network for both modalities (Eq. 3), and optionally C_T on its taps (Triple-Net, Eq. 4-5).

    Both modalities run through the trunk as one batch.
    """

    def __init__(
        self,
        stream: Stream,
        cross: CrossSubnetwork | None = None,
        cam: PairCam | None = None,
        patient: PatientNetwork | None = None,
    ) -> None:
        super().__init__(cam, patient)
        self.stream = stream
        self.cross = cross

    def stream_of(self, modality: Modality) -> Stream:
        """See :class:`PairNetwork`."""
        del modality
        return self.stream

    def stems(self, images: PairMaps) -> PairMaps:
        """See :class:`PairNetwork`."""
        return _as_one_batch(self.stream.trunk.stem, images)

    def _classify(self, stems: PairMaps, maps: PairMaps) -> PairLogits:
        weights = [one for one in maps if one is not None]
        given = [stem for stem in stems if stem is not None]
        logits, taps = self.stream(torch.cat(given), torch.cat(weights) if weights else None)
        if stems.clinical is None or stems.dermoscopy is None:
            return PairLogits(logits, None, None) if stems.clinical is not None else PairLogits(None, logits, None)
        triple = self.cross(*taps.chunk(2), maps) if self.cross is not None else None
        clinical, dermoscopy = logits.chunk(2)
        return PairLogits(clinical, dermoscopy, triple)
