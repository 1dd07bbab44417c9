"""Inputs of the comparisons: models, pairs and photos, equal on every machine."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from derm_ray import storage
from derm_ray.bundle import Bundle, load_bundle, save_bundle
from derm_ray.data.loading import pair_images
from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15
from derm_ray.inference.engines import openvino
from derm_ray.inference.engines.engine_store import store_engine
from derm_ray.inference.engines.quantization import quantize
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network

logger = logging.getLogger(__name__)

CALIBRATION_PAIRS = 8
DRAWN_PAIRS = 64
CLASSIFIER_DEVIATION = 0.3
SIDE = 600
WIDTH, HEIGHT, QUALITY = 4000, 3000, 90


@contextmanager
def benchmark_bundle(model_uri: str | None, *, int8: bool) -> Iterator[Bundle]:
    """Yield a bundle, or the paper's Triple-Net with CAM-BP at 224 px, untrained, with an int8 engine if it can be
    made.
    """
    if model_uri is not None:
        yield load_bundle(model_uri)
        return
    config = NetworkConfig("triple", "vgg16", "cam_bp", len(PAPER15.class_names), cam=CamConfig("googlenet", 15))
    with TemporaryDirectory() as folder:
        bundle = load_bundle(untrained(storage.join(folder, "bundle"), config, 224))
        if int8 and all(map(find_spec, ("openvino", "nncf"))):
            pairs = draw_pairs(Path(folder), CALIBRATION_PAIRS)
            logger.info("quantizing the untrained model")
            files, built_with = quantize(bundle, pair_images(pairs.pairs(), bundle.preprocessing, pairs.uri))
            store_engine(bundle, openvino.NAME, files, {"passed": None}, built_with)
        yield bundle


def untrained(uri: str, config: NetworkConfig, size: int) -> str:
    """Seal a model of random weights and return its URI."""
    torch.manual_seed(0)
    network = build_network(config)
    for name, parameter in network.named_parameters():
        if name.endswith("classifier.weight"):  # bilinear heads begin at 0, where all answers are the same
            torch.nn.init.normal_(parameter, std=CLASSIFIER_DEVIATION)
    save_bundle(
        uri,
        network=config,
        label_set=PAPER15,
        preprocessing=Preprocessing(size),
        weights=network.state_dict(),
        provenance={},
    )
    return uri


def draw_pairs(folder: Path, count: int, side: int = SIDE) -> Manifest:
    """Write a manifest of synthetic pairs, square JPEGs; beyond 64 pairs the same images come again."""
    drawn = synthesize(str(folder / "drawn"), min(count, DRAWN_PAIRS), PAPER15, size=side).absolute()
    table = drawn.table.take([row % len(drawn) for row in range(count)])
    pairs = Manifest(table, str(folder / "pairs.parquet"))
    for column, prefix in (("pair_id", "P"), ("lesion_id", "L")):
        pairs = pairs.with_column(column, [f"{prefix}{row:07d}" for row in range(count)])
    write_manifest(pairs, pairs.uri)
    return pairs


def photo() -> bytes:
    """Return a JPEG of 12 megapixels with the detail of skin: smooth shades and fine noise, about 3 MB."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    shade = np.stack([205 - x / 80, 150 - y / 60, 120 + x / 160], -1)
    shade[np.hypot(x - 1800, y - 1500) < 700] *= 0.6
    pixels = (shade + generator.normal(0, 6, shade.shape)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
