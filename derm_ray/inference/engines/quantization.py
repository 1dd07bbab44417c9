"""Creating the int8 engine: NNCF's quantization with accuracy control, part by part."""

import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from derm_ray.bundle import Bundle
from derm_ray.domain import Modality
from derm_ray.inference.engines.engine import Images
from derm_ray.inference.engines.openvino import (
    BOTH,
    CROSS,
    PATIENT,
    Arrays,
    compile_part,
    cross_inputs,
    outputs_of,
    require,
)
from derm_ray.models.networks import PairMaps, PairNetwork, ShareNet

Sample = tuple[Arrays, ...]

MAX_DISAGREEMENT = 0.01
"""Largest share of calibration images whose predicted class may change; layers stay fp32 until it is met."""
ROUNDED_TYPES = {"Convolution", "Relu", "MaxPool", "AvgPool", "Concat"}
"""Operations on 8 bits: convolutions and what only passes their values on. All others stay fp32: the Gram matrix, the
square root, the norms, the classifiers."""


class Encoder(nn.Module):
    """From uint8 images of one modality to logits, tap and, where there is one, map."""

    def __init__(self, network: PairNetwork, modality: Modality) -> None:
        super().__init__()
        self.network = network
        self._modality = modality

    def forward(self, images_BHWC: Tensor) -> tuple[Tensor, ...]:
        """Return (B, classes), (B, C, H, W) and (B, H', W')."""
        encoding = self.network.encode(images_BHWC.permute(0, 3, 1, 2), self._modality)
        return tuple(part for part in encoding if part is not None)


class Cross(nn.Module):
    """From both taps, and both maps where there are any, to the cross sub-network's logits."""

    def __init__(self, network: ShareNet) -> None:
        super().__init__()
        self.cross = network.cross

    def forward(self, clinical: Tensor, dermoscopy: Tensor, *maps: Tensor) -> Tensor:
        """Return (B, classes)."""
        assert self.cross is not None
        return torch.as_tensor(self.cross(clinical, dermoscopy, PairMaps(*maps) if maps else PairMaps(None, None)))


def quantize(bundle: Bundle, images: Mapping[Modality, Images]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the files of the int8 engine, and the package versions used.

    ``images`` of both modalities, (N, size, size, 3) each, are the pairs to calibrate on.

    Raises:
        ConfigError: OpenVINO or NNCF is not installed.
    """
    packages = {name: str(require(name).__version__) for name in ("openvino", "nncf")}
    network, classes = bundle.build(), len(bundle.label_set.class_names)
    served = {BOTH: tuple(Modality)} if network.encodes_alike else {str(modality): (modality,) for modality in Modality}
    files: dict[str, bytes] = {}
    encoded: dict[Modality, list[Arrays]] = {}
    with _quietly(), torch.inference_mode():
        for name, modalities in served.items():
            samples: list[Sample] = [(image[None],) for modality in modalities for image in images[modality]]
            encoder = _quantized(Encoder(network, modalities[0]), samples, classes)
            files |= _serialized(encoder, name)
            compiled = compile_part(encoder, torch.get_num_threads())
            for modality in modalities:
                outputs = [outputs_of(compiled, image[None]) for image in images[modality]]
                encoded[modality] = [np.concatenate(column) for column in zip(*outputs, strict=True)]
        if isinstance(network, ShareNet) and network.cross is not None:
            arrays = cross_inputs(encoded[Modality.CLINICAL], encoded[Modality.DERMOSCOPY])
            samples = [tuple(row[None] for row in rows) for rows in zip(*arrays, strict=True)]
            files |= _serialized(_quantized(Cross(network), samples, classes), CROSS)
        if network.patient is not None:
            files |= _serialized(
                _converted(network.patient, (np.zeros((1, network.patient.width), np.float32),)), PATIENT
            )
    return files, packages


def _converted(module: nn.Module, sample: Sample) -> Any:
    """Convert a part in full precision."""
    example = tuple(torch.from_numpy(np.concatenate([array, array])) for array in sample)
    return require("openvino").convert_model(
        module,
        example_input=example if len(example) > 1 else example[0],
        input=[[-1, *array.shape[1:]] for array in sample],
    )


def _quantized(module: nn.Module, samples: list[Sample], classes: int) -> Any:
    """Convert a part and quantize it; layers stay fp32 until the predictions for the samples agree.

    These are predictions from images: the network of patient data is a part of its own, and stays fp32.

    Ranges come from histograms: VGG-16's activations have long tails, and ranges that reach to their ends round the
    rest away (measured: 0.968 of images kept their class, 0.996 with histograms).
    """
    nncf = require("nncf")
    range_estimator = require("nncf.quantization.range_estimator")
    threads = torch.get_num_threads()
    model = _converted(module, samples[0])
    exact = compile_part(model, threads)
    truth = [int(outputs_of(exact, *sample)[0].argmax()) for sample in samples]

    def agreement(compiled: Any, data: Iterable[Sample]) -> tuple[float, list[float]]:
        # The ranking of layers asks for a few of the samples, by their index.
        same = [float(outputs_of(compiled, *inputs)[0].argmax() == truth[int(index)]) for index, *inputs in data]
        return sum(same) / len(same), same

    return nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(samples, list),
        nncf.Dataset([(np.array(index), *sample) for index, sample in enumerate(samples)]),
        agreement,
        max_drop=MAX_DISAGREEMENT,
        subset_size=len(samples),
        advanced_quantization_parameters=nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=range_estimator.RangeEstimatorParametersSet.HISTOGRAM
        ),
        ignored_scope=nncf.IgnoredScope(
            names=_classifiers(model, classes),
            types=sorted({operation.get_type_name() for operation in model.get_ops()} - ROUNDED_TYPES),
            validate=False,
        ),
    )


def _serialized(model: Any, name: str) -> dict[str, bytes]:
    """Return a part as OpenVINO's two files."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.xml"
        require("openvino").save_model(model, path, compress_to_fp16=False)
        return {file.name: file.read_bytes() for file in (path, path.with_suffix(".bin"))}


def _classifiers(model: Any, classes: int) -> list[str]:
    """Return the names of the convolutions that map to class scores: a CAM network's activation maps."""
    return [
        operation.get_friendly_name()
        for operation in model.get_ops()
        if operation.get_type_name() == "Convolution" and operation.get_output_partial_shape(0)[1] == classes
    ]


@contextmanager
def _quietly() -> Iterator[None]:
    """Suppress the output of tracing and NNCF."""
    logging.getLogger("nncf").setLevel(logging.ERROR)
    with warnings.catch_warnings(), redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield
