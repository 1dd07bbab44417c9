"""Sole-, Share- and Triple-Net (Ge et al. 2017, section 2.1)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from derm_ray.domain import Modality, PredictionKind
from derm_ray.models.cam import CamStream
from derm_ray.models.heads import Head
from derm_ray.models.present import Present, few_images
from derm_ray.models.trunks import Trunk


class PairLogits(NamedTuple):
    """Logits of each sub-network, (B, classes) each; ``None`` where its images are not given.

    Rows of pairs that lack its images are NaN (:class:`derm_ray.models.present.Present`). ``triple`` is the cross
    sub-network's, ``None`` for networks without one.
    """

    clinical: Tensor | None
    dermoscopy: Tensor | None
    triple: Tensor | None

    def probabilities(self) -> Mapping[PredictionKind, Tensor]:
        """Return (B, classes) float32 probabilities of every prediction kind the images allow.

        Cross is the mean of the sub-networks' probabilities (section 2.1, last sentences). Rows that lack a kind's
        images are NaN.
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


def _as_one_batch(function: Callable[[Tensor], Tensor], pair: PairMaps, present: Present | None) -> PairMaps:
    """Apply a function to both modalities at once."""
    given = [tensor for tensor in pair if tensor is not None]
    results = iter(_parts(function(torch.cat(given)), len(given), present))
    return PairMaps(*(next(results) if tensor is not None else None for tensor in pair))


def _each_alone(functions: Sequence[Callable[[Tensor], Tensor]], pair: PairMaps, present: Present | None) -> PairMaps:
    """Apply a function of its own to each modality; one without any image is as empty afterwards."""
    has = (True, True) if present is None else tuple(size > 0 for size in present.sizes)
    given = [
        function(tensor) if there and tensor is not None else None
        for function, tensor, there in zip(functions, pair, has, strict=True)
    ]
    if all(has):
        return PairMaps(*given)
    other = next(tensor for tensor in given if tensor is not None)
    return PairMaps(*(tensor if tensor is not None else other[:0] for tensor in given))


def _parts(tensor: Tensor, number: int, present: Present | None) -> tuple[Tensor, ...]:
    """Return the parts of a tensor that holds both modalities, or one."""
    return tensor.chunk(number) if present is None else torch.split(tensor, present.sizes)


class PairCam(nn.Module):
    """The frozen CAM network of a pair network: one stream for both modalities, or one for each.

    With ``from_stem`` it reads the output of the pair network's frozen stem, not images.
    """

    def __init__(self, *streams: CamStream, from_stem: bool) -> None:
        super().__init__()
        self.streams = nn.ModuleList(streams)
        self.from_stem = from_stem

    def forward(self, inputs: PairMaps, present: Present | None = None) -> PairMaps:
        """Return weights (B, H, W) per modality, >= 0 and summing to 1."""
        if len(self.streams) == 1:
            return _as_one_batch(self.streams[0], inputs, present)
        return _each_alone(tuple(self.streams), inputs, present)

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

    def without_images(self, stem_BCHW: Tensor, map_BHW: Tensor | None) -> Tensor:
        """Return the logits of an empty batch (0, classes), which still depend on all parameters.

        Transformers take no empty batch: the trunk runs on a blank image, unless its batch norms would let that image
        into the statistics of all workers.
        """
        shares = any(isinstance(layer, nn.SyncBatchNorm) and layer.training for layer in self.trunk.modules())
        given = stem_BCHW if shares else stem_BCHW.new_zeros(1, *stem_BCHW.shape[1:])
        logits: Tensor = self.head(self.trunk.body(given).last_BCHW[:0], map_BHW)
        return logits


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
        present: Present | None = None,
    ) -> PairLogits:
        """Return the logits of each sub-network whose images are given.

        A sub-network without any image runs on an empty batch, so that all parameters get a gradient.

        Args:
            clinical_BCHW, dermoscopy_BCHW: images, or what :meth:`stems` returned for them.
            patient_BF: encoded patient data, only of networks that use it; ``None``: all is missing.
            from_stem: the images are what :meth:`stems` returned.
            present: the images that pairs have, where some lack one; both tensors are given then, and only the images
                that are present are read. ``None``: all pairs have what is given.
        """
        inputs = PairMaps(clinical_BCHW, dermoscopy_BCHW)
        if present is not None:
            assert clinical_BCHW is not None, "both are given"
            assert dermoscopy_BCHW is not None, "both are given"
            inputs = PairMaps(clinical_BCHW[present.rows[0]], dermoscopy_BCHW[present.rows[1]])
        stems = inputs if from_stem else self.stems(inputs, present)
        logits = self._classify(stems, self._maps(inputs, stems, present), present)
        if present is not None:
            parts = zip(logits, (*present.rows, present.both), strict=True)
            logits = PairLogits(*(present.spread(part, rows) if part is not None else None for part, rows in parts))
        if self.patient is None:
            assert patient_BF is None, "this network takes no patient data"
            return logits
        if patient_BF is not None:
            return logits.plus(self.patient(patient_BF))
        given = next(tensor for tensor in (clinical_BCHW, dermoscopy_BCHW) if tensor is not None)
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

    def _maps(self, inputs: PairMaps, stems: PairMaps, present: Present | None = None) -> PairMaps:
        if self.cam is None:
            return PairMaps(None, None)
        maps: PairMaps = self.cam(stems if self.cam.from_stem else inputs, present)
        return maps

    @abstractmethod
    def stems(self, images: PairMaps, present: Present | None = None) -> PairMaps:
        """Return the output of the trunks' frozen layers; ``present`` where the modalities differ in number."""

    @abstractmethod
    def _classify(self, stems: PairMaps, maps: PairMaps, present: Present | None) -> PairLogits:
        """Return logits from the stems' output and the saliency maps, of the images that are present."""


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

    def stems(self, images: PairMaps, present: Present | None = None) -> PairMaps:
        """See :class:`PairNetwork`."""
        streams = (self.clinical.trunk.stem, self.dermoscopy.trunk.stem)
        return _each_alone(streams, images, present)

    def _classify(self, stems: PairMaps, maps: PairMaps, present: Present | None) -> PairLogits:
        found: list[Tensor | None] = []
        for modality, stem, weights in zip(Modality, stems, maps, strict=True):
            stream = self.stream_of(modality)
            with few_images(stream, present.shared[len(found)] if present is not None else None):
                if present is not None and stem is not None and not present.sizes[len(found)]:
                    found.append(stream.without_images(stem, weights))
                else:
                    found.append(stream(stem, weights)[0] if stem is not None else None)
        clinical, dermoscopy = found
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

    def stems(self, images: PairMaps, present: Present | None = None) -> PairMaps:
        """See :class:`PairNetwork`."""
        return _as_one_batch(self.stream.trunk.stem, images, present)

    def _classify(self, stems: PairMaps, maps: PairMaps, present: Present | None) -> PairLogits:
        weights = [one for one in maps if one is not None]
        given = [stem for stem in stems if stem is not None]
        with few_images(self.stream, sum(present.shared[:2]) if present is not None else None):
            logits, taps = self.stream(torch.cat(given), torch.cat(weights) if weights else None)
        if stems.clinical is None or stems.dermoscopy is None:
            return PairLogits(logits, None, None) if stems.clinical is not None else PairLogits(None, logits, None)
        triple = self._cross(_parts(taps, 2, present), maps, present) if self.cross is not None else None
        clinical, dermoscopy = _parts(logits, 2, present)
        return PairLogits(clinical, dermoscopy, triple)

    def _cross(self, taps: Sequence[Tensor], maps: PairMaps, present: Present | None) -> Tensor:
        """Return the third sub-network's logits of the pairs with both images."""
        assert self.cross is not None, "of Triple-Nets only"
        if present is not None:
            taps = [tap[rows] for tap, rows in zip(taps, present.of_both, strict=True)]
            of_both = zip(maps, present.of_both, strict=True)
            maps = PairMaps(*(weights[rows] if weights is not None else None for weights, rows in of_both))
        with few_images(self.cross, present.shared[2] if present is not None else None):
            logits: Tensor = self.cross(*taps, maps)
        return logits
