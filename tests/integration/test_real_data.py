"""Real lesion pairs and ImageNet weights, where the machine has them."""

import pytest
import torch

from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.manifest import Manifest
from derm_ray.data.splits import split_manifest
from derm_ray.data.validation import validate
from derm_ray.domain import MILK10K, PAPER15, Split
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.weights import load_init_weights, read_init_weights
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train
from tests.conftest import RealData, take

pytestmark = pytest.mark.real_data

COARSE = {"naevus", "Benign soft tissue proliferations - Vascular"}


@pytest.fixture(scope="module")
def milk10k(real_data: RealData) -> Manifest:
    return split_manifest(import_milk10k(real_data.milk10k, PAPER15, "m.parquet").manifest).manifest


def test_1201_of_1324_lesions_are_of_the_papers_15_and_43_may_be(real_data: RealData, milk10k: Manifest) -> None:
    result = import_milk10k(real_data.milk10k, PAPER15, "m.parquet")
    assert (len(result.manifest), result.found, sum(result.outside.values())) == (1244, 1324, 80)
    names = [name for name in result.manifest.column("diagnosis") if name in PAPER15.class_names]
    assert (len(names), set(result.manifest.column("diagnosis")) - set(names)) == (1201, COARSE)
    assert result.outside["Nevus, Congenital"] == 16
    validate(milk10k, PAPER15, complete=tuple(Split))
    assert len(milk10k.select(Split.TEST)) + len(milk10k.select(Split.TRAIN)) + len(milk10k.select(Split.VAL)) == 1244
    whole = import_milk10k(real_data.milk10k, MILK10K, "m.parquet")
    validate(whole.manifest, MILK10K, complete=(None,))
    assert len(whole.manifest) == 1324


def test_the_given_weights_are_imagenets(real_data: RealData) -> None:
    """Features of a trained network are sparse and large; those of a random one are neither."""
    torch.manual_seed(0)
    network = build_network(NetworkConfig("share"))
    batch = torch.randn(1, 3, 64, 64)
    before = network.stream.trunk(batch).last_BCHW.detach()
    load_init_weights(network, read_init_weights("vgg16", real_data.weights), real_data.weights)
    after = network.stream.trunk(batch).last_BCHW.detach()
    assert after.max() > 10 * before.max()
    assert (after == 0).float().mean() > 0.6


@pytest.mark.slow
def test_the_cpu_preset_learns_from_real_pairs(
    ray_local: None, real_data: RealData, milk10k: Manifest, tmp_path_factory: pytest.TempPathFactory
) -> None:
    train_few, val_few = (take(milk10k.select(split), count) for split, count in ((Split.TRAIN, 48), (Split.VAL, 16)))
    few = milk10k.where(
        [p in {*train_few.column("pair_id"), *val_few.column("pair_id")} for p in milk10k.column("pair_id")]
    )
    config = make_config("cpu", {"epochs": 2, "size": 64})
    result = train(config, few, str(tmp_path_factory.mktemp("real")), "cpu", init_weights=real_data.weights, workers=2)
    assert result.metrics["cross/accuracy"] > 0.2
