"""Trunks by the names of timm and torchvision."""

import re

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from derm_ray.domain import PredictionKind
from derm_ray.errors import ConfigError, StorageError
from derm_ray.models import timm_trunks
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.models.networks import PairMaps
from derm_ray.models.trunks import TRUNKS, Trunk, check_trunk
from derm_ray.models.weights import load_trunk_weights, read_init_weights
from derm_ray.training.config import make_config

FAMILIES = {
    "timm/resnet18": 64,
    "timm/tf_efficientnet_lite0": 64,
    "timm/mobilenetv3_small_050": 64,
    "timm/convnext_atto": 64,
    "timm/regnetx_002": 64,
    "timm/swin_tiny_patch4_window7_224": 64,
    "timm/vit_tiny_patch16_224": 64,
    "timm/vit_small_patch14_reg4_dinov2": 56,
    "timm/eva02_tiny_patch14_224": 56,
    "timm/xception41": 64,
    "torchvision/mobilenet_v2": 64,
}
"""Trunk -> side of the images in pixels."""
FAST = ("timm/tf_efficientnet_lite0", "timm/vit_tiny_patch16_224")
STAGED = [name for name in FAMILIES if name not in ("timm/eva02_tiny_patch14_224", "timm/xception41")]


def images(side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    clinical, dermoscopy = torch.randint(0, 256, (2, 2, 3, side, side), generator=generator, dtype=torch.uint8)
    return clinical, dermoscopy


def published(name: str) -> nn.Module:
    family, _, member = name.partition("/")
    torch.manual_seed(3)
    if family == "torchvision":
        return models.get_model(member, weights=None).eval()
    fixed = "swin" in member or member.startswith("vit")
    return timm.create_model(member, **({"dynamic_img_size": True} if fixed else {})).eval()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in FAMILIES]
)
def test_every_family_makes_a_triple_net_with_cam_bilinear_pooling(name: str) -> None:
    torch.manual_seed(0)
    cam = CamConfig(name, 5)
    network = build_network(NetworkConfig("triple", name, "cam_bp", classes=5, rank=8, cam=cam)).eval()
    clinical, dermoscopy = images(FAMILIES[name])
    logits = network(clinical, dermoscopy)
    logits.triple.sum().backward()
    assert network.stream.trunk.features[0].training is False
    for kind, probabilities in logits.probabilities().items():
        assert probabilities.shape == (2, 5), kind
    maps = network.saliency(clinical, dermoscopy)
    assert torch.allclose(maps.clinical.sum((1, 2)), torch.ones(2), atol=1e-5)
    alone = network(clinical, None).probabilities()[PredictionKind.CLINICAL]
    assert torch.allclose(alone, logits.probabilities()[PredictionKind.CLINICAL], atol=1e-5)


@pytest.mark.parametrize("name", FAST)
def test_the_body_goes_on_where_the_frozen_stem_ends(name: str) -> None:
    freeze = list(TRUNKS[name].freezes)[1]
    network = build_network(NetworkConfig("triple", name, "gap", classes=5), freeze=freeze).eval()
    inputs = PairMaps(*images(FAMILIES[name]))
    stems = network.stems(inputs)
    assert not stems.clinical.requires_grad
    for first, second in zip(network(*inputs), network(*stems, from_stem=True), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", [one for one in STAGED if "swin" not in one and "lite" not in one])
def test_the_last_map_is_the_published_network_s(name: str) -> None:
    whole, trunk = published(name), Trunk(name).eval()
    load_trunk_weights(trunk, whole.state_dict(), "the test")
    image = images(FAMILIES[name])[0]
    normalized = image.float() / trunk.scale - trunk.shift
    with torch.no_grad():
        last = trunk(image).last_BCHW
        expected = whole.forward_features(normalized) if name.startswith("timm") else whole.features(normalized)
    if expected.ndim == 3:
        expected = expected[:, whole.num_prefix_tokens :].transpose(1, 2).reshape(last.shape)
    assert torch.allclose(last, expected, atol=1e-5)


def test_the_layout_is_the_network_s_own() -> None:
    spec = TRUNKS["timm/tf_efficientnet_lite0"]
    assert next(iter(spec.taps)) == "stride16"
    assert (spec.taps["stride16"].channels, spec.channels) == (112, 320)
    assert list(spec.freezes) == ["stride2", "stride4", "stride8", "stride16", "stride32"]
    assert spec.mean == (0.5, 0.5, 0.5)
    assert next(iter(TRUNKS["timm/vit_tiny_patch16_224"].taps)) == "block9"
    assert TRUNKS["timm/convnext_tiny.fb_in22k"].pretrained is not None


def test_names_that_are_not_there_are_one_message() -> None:
    with pytest.raises(ConfigError, match=r"timm/resnet19: .* Did you mean 'timm/resnet18'\?"):
        TRUNKS["timm/resnet19"]
    with pytest.raises(ConfigError, match=r"torchvision/resnet19: .* Did you mean 'torchvision/resnet18'\?"):
        TRUNKS["torchvision/resnet19"]
    with pytest.raises(
        ConfigError,
        match=r"unknown trunk 'resnet5'\. Did you mean 'resnet50'\? Known: .*, timm/NAME, torchvision/NAME\.",
    ):
        TRUNKS["resnet5"]
    with pytest.raises(ConfigError, match=r"invalid setting trunk='timm/resnet19': .* Did you mean 'timm/resnet18'"):
        make_config("debug", {"trunk": "timm/resnet19"})
    with pytest.raises(ConfigError, match=r"resnet18 has no weights of tag 'evil'\. Known: a1_in1k, "):
        TRUNKS["timm/resnet18.evil"]
    with pytest.raises(ConfigError, match="unknown trunk 'timm'"):
        TRUNKS["timm"]
    with pytest.raises(ConfigError, match="Choose a later tap"):
        Trunk("timm/resnet18", "stride8", "stride16")


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("timm/vit_small_patch14_dinov2", 64, "56 or 70"),
        ("timm/vit_tiny_patch16_224", 225, "224 or 240"),
        ("timm/mixer_s16_224", 128, "224"),
    ],
)
def test_a_size_that_a_transformer_cannot_take_names_the_nearest_that_it_can(name: str, size: int, sizes: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} does not take images of {size} px\. Choose {sizes}, or another"):
        check_trunk(name, None, "none", size)
    for other in sizes.split(" or "):
        check_trunk(name, None, "none", int(other))


def test_weights_of_another_network_are_named_key_by_key() -> None:
    trunk = Trunk("timm/resnet18")
    state = timm.create_model("resnet18").state_dict()
    load_trunk_weights(trunk, state, "own")
    del state["layer1.0.conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    state["bn1.weight"] = torch.ones(64, dtype=torch.int8)
    state["bn1.bias"] = torch.full((64,), torch.nan)
    message = (
        "file: these weights do not fit trunk timm/resnet18. Give this network's. Tensors missing: layer1.0.conv1.weight; unexpected: "
        "layer9.weight; of another shape: conv1.weight (64, 3, 3, 3), not (64, 3, 7, 7); "
        "of another type: bn1.weight torch.int8; with values that are not finite numbers: bn1.bias."
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_trunk_weights(trunk, state, "file")


def test_a_download_that_fails_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no route")

    monkeypatch.setattr(timm_trunks.timm, "create_model", fail)
    with pytest.raises(StorageError, match=r"timm/resnet18 cannot be downloaded \(no route\)\. Give a local file"):
        read_init_weights("timm/resnet18", None)
