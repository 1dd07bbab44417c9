"""Speed of the network, compared with the machine's peak and with plain PyTorch; and of decoding a photo."""

from collections.abc import Callable, Mapping
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from derm_ray.bundle import Bundle
from derm_ray.data.decode import decode
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import PredictionKind
from derm_ray.inference.engines import openvino
from derm_ray.inference.engines.engine import Images, Probabilities
from derm_ray.inference.engines.selection import make_engine
from derm_ray.inference.precision import hardware_has_bf16
from derm_ray.studies.benchmark.comparison import Effort, Row, compare
from derm_ray.studies.benchmark.materials import photo

BATCH = 8
SIDES = (1024, 2048, 4096)
CPU = torch.device("cpu")
TYPES = {"torch": torch.float32, "torch-bf16": torch.bfloat16}

Run = Callable[[Images, Images], Mapping[PredictionKind, Probabilities]]


def against_matmul(bundle: Bundle, engine: str, effort: Effort) -> Row:
    """Compare an engine's arithmetic with the best square matrix product of its number format."""
    operations = _operations(bundle)
    rate = pairs_per_s(make_engine(bundle, engine, CPU).run, bundle, effort.seconds)
    dtype = TYPES[engine]
    matrices = {side: torch.randn(side, side).to(dtype) for side in SIDES}
    return compare(
        f"gflops-{'bf16' if dtype is torch.bfloat16 else 'fp32'}",
        f"engine {engine} / best square matmul of its type",
        lambda: rate() * operations / 1e9,
        lambda: max(_gflops(matrix, effort) for matrix in matrices.values()),
        effort,
        unit="GFLOP/s",
        threshold=0.85,
    )


def against_channels_last(bundle: Bundle, effort: Effort) -> Row:
    """Compare int8 with fp32 in channels-last order."""
    ours, other = (
        pairs_per_s(make_engine(bundle, name, CPU).run, bundle, effort.seconds) for name in (openvino.NAME, "torch")
    )
    return compare(
        "int8",
        f"engine {openvino.NAME} / torch (fp32, channels last), whole pairs",
        ours,
        other,
        effort,
        unit="pairs/s",
        threshold=3.5,
    )


def against_eager(bundle: Bundle, engine: str, effort: Effort) -> Row:
    """Compare an engine with PyTorch as it comes: eager, fp32, contiguous."""
    return compare(
        "engine",
        f"engine {engine} / PyTorch eager fp32 contiguous, whole pairs",
        pairs_per_s(make_engine(bundle, engine, CPU).run, bundle, effort.seconds),
        pairs_per_s(_eager(bundle), bundle, effort.seconds),
        effort,
        unit="pairs/s",
        threshold=5.0,
    )


def scaled_decoding(effort: Effort) -> Row:
    """Decode and resize a photo of 12 megapixels at the smallest sufficient scale, and in full."""
    data, spec = photo(), Preprocessing()

    def milliseconds(side: int | None) -> float:
        return 1000 / _runs_per_s(lambda: spec.resize(decode(data, side=side).image), effort.seconds / 4)

    what = "12-megapixel JPEG to 224 px: scaled / full decoding"
    ours, full = partial(milliseconds, spec.size), partial(milliseconds, None)
    return compare("decoding", what, ours, full, effort, unit="ms", threshold=0.35, at_most=True)


def torch_engines_here() -> tuple[str, ...]:
    """Return the eager engines that this machine has the hardware for."""
    return ("torch", "torch-bf16") if hardware_has_bf16(CPU) else ("torch",)


def pairs_per_s(run: Run, bundle: Bundle, seconds: float, batch: int = BATCH) -> Callable[[], float]:
    """Return what measures how many pairs of decoded images go through in a second."""
    size = bundle.preprocessing.size
    clinical, dermoscopy = np.random.default_rng(0).integers(0, 256, (2, batch, size, size, 3), np.uint8)
    return lambda: batch * _runs_per_s(partial(run, clinical, dermoscopy), seconds)


def _eager(bundle: Bundle) -> Run:
    network = bundle.build().to(CPU)

    def run(clinical: Images, dermoscopy: Images) -> Mapping[PredictionKind, Probabilities]:
        inputs = (torch.from_numpy(i).permute(0, 3, 1, 2).contiguous() for i in (clinical, dermoscopy))
        with torch.inference_mode():
            return {kind: p.numpy() for kind, p in network(*inputs).probabilities().items()}

    return run


def _gflops(matrix: torch.Tensor, effort: Effort) -> float:
    return 2 * len(matrix) ** 3 / 1e9 * _runs_per_s(partial(torch.mm, matrix, matrix), effort.seconds / len(SIDES))


def _runs_per_s(run: Callable[[], object], seconds: float) -> float:
    runs, began = 0, perf_counter()
    while (elapsed := perf_counter() - began) < seconds or not runs:
        run()
        runs += 1
    return runs / elapsed


def _operations(bundle: Bundle) -> int:
    """Return the floating-point operations of one pair's forward pass, two for each multiplication and addition."""
    size = bundle.preprocessing.size
    image = torch.zeros(1, 3, size, size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        bundle.build()(image, image)
    return int(counter.get_total_flops())
