from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import vgg16

from derm_ray.errors import ConfigError, StorageError
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.weights import load_init_weights, read_init_weights


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random VGG-16 convolutions in half precision, with torchvision's key names."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "vgg.safetensors"
    save_file({f"features.{k}": v.half() for k, v in vgg16(weights=None).features.state_dict().items()}, path)
    return str(path)


def test_every_trunk_gets_the_weights(features: str) -> None:
    model = build_network(NetworkConfig("sole"))
    load_init_weights(model, read_init_weights("vgg16", features), features)
    first, second = model.clinical.trunk.state_dict(), model.dermoscopy.trunk.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert all(value.dtype is torch.float32 for value in first.values())


def test_files_that_do_not_fit_are_one_message(tmp_path: Path, features: str) -> None:
    model = build_network(NetworkConfig("share", "tiny"))
    with pytest.raises(ConfigError, match="do not fit trunk tiny"):
        load_init_weights(model, read_init_weights("vgg16", features), features)
    with pytest.raises(StorageError, match="not found"):
        read_init_weights("vgg16", str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        read_init_weights("vgg16", str(tmp_path / "bad.safetensors"))
    with pytest.raises(ConfigError, match="trained from scratch"):
        read_init_weights("tiny", features)
