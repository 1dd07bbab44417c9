"""The trunks that come with derm_ray."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import models
from torchvision.models.googlenet import Inception, InceptionAux
from torchvision.models.resnet import Bottleneck
from torchvision.models.vgg import cfgs, make_layers

from derm_ray.models.trunks import Layer, TrunkSpec


def _torchvision(weights: models.WeightsEnum) -> partial[dict[str, Tensor]]:
    return partial(weights.get_state_dict, progress=False, check_hash=True)


def _keys(make: Callable[[], nn.Module]) -> list[str]:
    with torch.device("meta"):
        return list(make().state_dict())


def _vgg16() -> nn.Sequential:
    return nn.Sequential(*make_layers(cfgs["D"])[:30])


def _googlenet() -> nn.Sequential:
    network = models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=False)
    names = [name for name, _ in network.named_children()]
    kept = list(network.named_children())[: names.index("inception4e") + 1]
    return nn.Sequential(OrderedDict(kept))


class _ConvRelu(nn.Module):
    """A convolution with bias and its ReLU, under the names of torchvision's convolution with batch norm."""

    def __init__(self, before: int, after: int, **options: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, **options)  # type: ignore[arg-type]

    def forward(self, map_BCHW: Tensor) -> Tensor:
        return functional.relu(self.conv(map_BCHW), inplace=True)


class _Inception5x5(Inception):  # type: ignore[misc]
    """Torchvision's inception module with the 5x5 convolution of the paper, where torchvision has 3x3."""

    def __init__(self, *widths: int) -> None:
        super().__init__(*widths, conv_block=_ConvRelu)
        self.branch3[1] = _ConvRelu(widths[4], widths[5], kernel_size=5, padding=2)


def _published_in_2014() -> models.GoogLeNet:
    blocks = [_ConvRelu, _Inception5x5, InceptionAux]
    return models.GoogLeNet(blocks=blocks, aux_logits=False, init_weights=False, transform_input=False)


def _googlenet_2014() -> nn.Sequential:
    layers = OrderedDict(_published_in_2014().named_children())
    names = [*list(layers)[: list(layers).index("inception4e") + 1]]
    for before, norm in (("conv2", "norm1"), ("maxpool2", "norm2")):
        names.insert(names.index(before), norm)
        layers[norm] = nn.LocalResponseNorm(5)
    return nn.Sequential(OrderedDict((name, layers[name]) for name in names))


def _resnet50() -> nn.Sequential:
    return nn.Sequential(OrderedDict(list(models.resnet50(weights=None).named_children())[:-2]))


def _resnet50_v1() -> nn.Sequential:
    layers = _resnet50()
    for stage in layers[5:]:
        first = cast("Bottleneck", cast("nn.Sequential", stage)[0])
        first.conv1.stride, first.conv2.stride = (2, 2), (1, 1)
    return layers


def _tiny() -> nn.Sequential:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 48)
    )


VGG16 = TrunkSpec(
    _vgg16,
    512,
    {"relu5_2": Layer(28, 512), "relu5_1": Layer(26, 512), "relu5_3": Layer(30, 512)},
    {"pool4": 24},
    pretrained=_torchvision(models.VGG16_Weights.IMAGENET1K_V1),
    published=partial(_keys, models.vgg16),
    source_key="features.{}".format,
)
"""The paper's: VGG-16 without the final pooling, (B, 512, H/16, W/16) (Simonyan and Zisserman 2014)."""

GOOGLENET = TrunkSpec(
    _googlenet,
    832,
    {"inception4e": Layer(13, 832)},
    {"maxpool3": 8},
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pretrained=_torchvision(models.GoogLeNet_Weights.IMAGENET1K_V1),
    published=partial(_keys, partial(models.googlenet, init_weights=False)),
)
"""The paper's CAM network: GoogLeNet cut after inception4e, (B, 832, H/16, W/16) (Zhou et al. 2016)."""

GOOGLENET_2014 = TrunkSpec(
    _googlenet_2014,
    832,
    {"inception4e": Layer(15, 832)},
    {"maxpool3": 10},
    mean=(123 / 255, 117 / 255, 104 / 255),
    std=(1 / 255, 1 / 255, 1 / 255),
    published=partial(_keys, _published_in_2014),
)
"""GoogLeNet as published, with 5x5 convolutions and without batch norm (Szegedy et al. 2015, table 1); cut as above."""

RESNET50 = TrunkSpec(
    _resnet50,
    2048,
    {"layer4": Layer(8, 2048)},
    {"layer3": 7},
    pretrained=_torchvision(models.ResNet50_Weights.IMAGENET1K_V1),
    published=partial(_keys, models.resnet50),
)
"""The paper's comparison: ResNet-50 without pooling and classifier, (B, 2048, H/32, W/32) (He et al. 2016)."""

RESNET50_V1 = TrunkSpec(_resnet50_v1, 2048, {"layer4": Layer(8, 2048)}, {"layer3": 7}, published=RESNET50.published)
"""ResNet-50 as published, where a stage's first 1x1 convolution has the stride: torchvision's is in the 3x3 one."""

TINY = TrunkSpec(_tiny, 48, {"relu3_1": Layer(11, 48)}, {"pool2": 8})
"""For tests and the demo, trained from scratch: (B, 48, H/4, W/4)."""
