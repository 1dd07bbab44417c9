"""The trunks that come with derm_ray."""

from collections import OrderedDict
from functools import partial

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from derm_ray.models.trunks import TrunkSpec


def _torchvision(weights: models.WeightsEnum) -> partial[dict[str, Tensor]]:
    return partial(weights.get_state_dict, progress=False, check_hash=True)


def _vgg16() -> nn.Sequential:
    return nn.Sequential(*make_layers(cfgs["D"])[:30])


def _googlenet() -> nn.Sequential:
    network = models.googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=False)
    names = [name for name, _ in network.named_children()]
    kept = list(network.named_children())[: names.index("inception4e") + 1]
    return nn.Sequential(OrderedDict(kept))


def _resnet50() -> nn.Sequential:
    return nn.Sequential(OrderedDict(list(models.resnet50(weights=None).named_children())[:-2]))


def _tiny() -> nn.Sequential:
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    return nn.Sequential(
        *block(3, 16), nn.MaxPool2d(2), *block(16, 32), nn.MaxPool2d(2), *block(32, 48), *block(48, 48)
    )


VGG16 = TrunkSpec(
    _vgg16,
    512,
    {"relu5_2": 28, "relu5_1": 26, "relu5_3": 30},
    {"pool4": 24},
    pretrained=_torchvision(models.VGG16_Weights.IMAGENET1K_V1),
)
"""The paper's: VGG-16 without the final pooling, (B, 512, H/16, W/16) (Simonyan and Zisserman 2014)."""

GOOGLENET = TrunkSpec(
    _googlenet,
    832,
    {"inception4e": 13},
    {"maxpool3": 8},
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pretrained=_torchvision(models.GoogLeNet_Weights.IMAGENET1K_V1),
)
"""The paper's CAM network: GoogLeNet cut after inception4e, (B, 832, H/16, W/16) (Zhou et al. 2016)."""

RESNET50 = TrunkSpec(
    _resnet50,
    2048,
    {"layer4": 8},
    {"layer3": 7},
    pretrained=_torchvision(models.ResNet50_Weights.IMAGENET1K_V1),
)
"""The paper's comparison: ResNet-50 without pooling and classifier, (B, 2048, H/32, W/32) (He et al. 2016)."""

TINY = TrunkSpec(_tiny, 48, {"relu3_1": 11}, {"pool2": 8})
"""For tests and the demo, trained from scratch: (B, 48, H/4, W/4)."""
