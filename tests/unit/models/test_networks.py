import pytest
import torch
from torch import nn
from torchvision.models import googlenet, resnet50
from torchvision.models.vgg import cfgs, make_layers

from derm_ray.domain import Modality, PredictionKind
from derm_ray.errors import ConfigError
from derm_ray.models.factory import NETWORKS, CamConfig, NetworkConfig, build_network
from derm_ray.models.heads import BilinearHead
from derm_ray.models.networks import PairLogits, PairMaps, PairNetwork
from derm_ray.models.trunks import Trunk
from derm_ray.models.weights import load_trunk_weights

CAM = CamConfig("tiny", 5)


def network(name: str, head: str = "gap") -> PairNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig(name, "tiny", head, classes=5, cam=CAM if head == "cam_bp" else None)).eval()


def as_images(normalized: torch.Tensor) -> torch.Tensor:
    """Return the images (0..255) that ImageNet's normalization, which torchvision's networks are given, makes these."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (normalized * std + mean) * 255


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 255 * torch.rand(3, 3, 32, 32, generator=generator), 255 * torch.rand(3, 3, 32, 32, generator=generator)


@pytest.mark.parametrize("head", ["gap", "bp", "cam_bp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_answers_with_both_or_either_image(name: str, head: str) -> None:
    clinical, dermoscopy = images()
    model = network(name, head)
    both = model(clinical, dermoscopy).probabilities()
    assert set(both) == set(PredictionKind)
    for probabilities in both.values():
        assert probabilities.shape == (3, 5)
        assert torch.allclose(probabilities.sum(1), torch.ones(3), atol=1e-6)
    alone = model(clinical, None).probabilities()
    assert set(alone) == {PredictionKind.CLINICAL}
    assert torch.allclose(alone[PredictionKind.CLINICAL], both[PredictionKind.CLINICAL], atol=1e-6)
    alone = model(None, dermoscopy).probabilities()
    assert torch.allclose(alone[PredictionKind.DERMOSCOPY], both[PredictionKind.DERMOSCOPY], atol=1e-6)


@pytest.mark.parametrize("head", ["gap", "cam_bp"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_pair_is_its_two_encodings_and_the_cross_of_them(name: str, head: str) -> None:
    model = network(name, head)
    for module in model.modules():
        if isinstance(module, BilinearHead):
            nn.init.normal_(module.classifier.weight)
    whole = model(*images())
    clinical, dermoscopy = (model.encode(image, m) for image, m in zip(images(), Modality, strict=True))
    assert torch.allclose(clinical.logits, whole.clinical, atol=1e-5)
    assert torch.allclose(dermoscopy.logits, whole.dermoscopy, atol=1e-5)
    assert model.encodes_alike == (name != "sole")
    if name == "triple":
        triple = model.cross(clinical.tap, dermoscopy.tap, PairMaps(clinical.map, dermoscopy.map))
        assert torch.allclose(triple, whole.triple, atol=1e-5)


def count_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_cross_is_the_mean_of_the_parts() -> None:
    logits = network("triple")(*images())
    parts = torch.stack([part.softmax(1) for part in logits])
    assert torch.allclose(logits.probabilities()[PredictionKind.CROSS], parts.mean(0), atol=1e-6)
    without = PairLogits(logits.clinical, logits.dermoscopy, None)
    assert torch.allclose(without.probabilities()[PredictionKind.CROSS], parts[:2].mean(0), atol=1e-6)


@pytest.mark.parametrize("head", ["gap", "bp", "cam_bp"])
def test_share_net_is_swap_invariant_and_sole_net_is_not(head: str) -> None:
    clinical, dermoscopy = images()
    for name, invariant in (("share", True), ("sole", False)):
        model = network(name, head)
        for module in model.modules():
            if isinstance(module, BilinearHead):
                nn.init.normal_(module.classifier.weight)
        first = model(clinical, dermoscopy).probabilities()[PredictionKind.CROSS]
        second = model(dermoscopy, clinical).probabilities()[PredictionKind.CROSS]
        assert torch.allclose(first, second, atol=1e-6) is invariant


def test_parameter_counts() -> None:
    """About 259 M for the paper's Triple-Net with fc heads; the trunk alone is VGG-16's 14.7 M."""
    triple = build_network(NetworkConfig("triple", "vgg16", "gap"))
    assert count_parameters(triple) == 14_714_688 + (512 * 2 + 512 * 15 + 15) * 2 + 1024 * 512 * 9 + 512 * 2
    with torch.device("meta"):
        assert count_parameters(build_network(NetworkConfig("triple", "vgg16", "fc"))) == 258_665_310


def test_parameter_counts_of_cam_bp() -> None:
    """A classifier on 131,328 values; the CAM network adds its own conv5, its conv3x3 to 1024 and its classifier."""
    head = 131_328 * 15 + 15
    fuse = 1024 * 512 * 9 + 512 * 2
    conv5 = 3 * (512 * 512 * 9 + 512)
    cam = conv5 + 512 * 1024 * 9 + 1024 * 2 + 1024 * 15 + 15
    with torch.device("meta"):
        plain = build_network(NetworkConfig("triple", "vgg16", "bp"))
        pooled = build_network(NetworkConfig("triple", "vgg16", "cam_bp", cam=CamConfig("vgg16", 15, stem="pool4")))
        small = build_network(NetworkConfig("triple", "vgg16", "bp", rank=64))
    assert count_parameters(plain) == 14_714_688 + fuse + 2 * head
    assert count_parameters(pooled) == count_parameters(plain) + cam
    assert count_parameters(small) == 14_714_688 + fuse + 2 * (512 * 64 + 64 * 65 // 2 * 15 + 15)


@pytest.mark.parametrize("name", ["googlenet", "resnet50"])
def test_other_trunks_compute_torchvisions_activations(name: str) -> None:
    torch.manual_seed(0)
    batch = torch.rand(1, 3, 64, 64)
    if name == "googlenet":
        reference = googlenet(weights=None, aux_logits=False, init_weights=False, transform_input=True).eval()
        last = "inception4e"
    else:
        reference = resnet50(weights=None).eval()
        last = "layer4"
    seen: list[torch.Tensor] = []
    reference.get_submodule(last).register_forward_hook(lambda module, inputs, output: seen.append(output))
    reference(batch)
    trunk = Trunk(name).eval()
    load_trunk_weights(trunk, reference.state_dict(), "torchvision")
    assert torch.allclose(trunk(as_images(batch)).last_BCHW, seen[0], atol=1e-4)


def test_a_network_continues_from_its_stems_output() -> None:
    model = build_network(NetworkConfig("triple", "tiny", "gap", 5), freeze="pool2").eval()
    clinical, dermoscopy = images()
    stems = model.stems(PairMaps(clinical, dermoscopy))
    for first, second in zip(model(clinical, dermoscopy), model(*stems, from_stem=True), strict=True):
        assert torch.equal(first, second)


def test_vgg16_trunk_computes_torchvisions_activations() -> None:
    torch.manual_seed(0)
    reference = make_layers(cfgs["D"])
    trunk = Trunk("vgg16", "relu5_2")
    trunk.features.load_state_dict({k: v for k, v in reference.state_dict().items() if int(k.split(".")[0]) < 30})
    batch = torch.rand(1, 3, 64, 64)
    tap, last = trunk(as_images(batch))
    assert torch.allclose(tap, reference[:28](batch), atol=1e-5)
    assert torch.allclose(last, reference[:30](batch), atol=1e-5)
    assert tap.shape == last.shape == (1, 512, 4, 4)


def test_frozen_layers_get_no_gradient_and_keep_their_statistics() -> None:
    model = build_network(NetworkConfig("triple", "tiny", "gap", 5), freeze="pool2").train()
    stem = model.stream.trunk.features[:8]
    before = [buffer.clone() for buffer in stem.buffers()]
    logits = model(*images())
    sum(part.sum() for part in logits).backward()
    assert all(p.grad is None for p in stem.parameters())
    assert model.stream.trunk.features[8].weight.grad is not None
    assert all(torch.equal(a, b) for a, b in zip(before, stem.buffers(), strict=True))


def test_share_net_has_one_trunk_and_sole_net_two() -> None:
    counts = {name: sum(isinstance(m, Trunk) for m in network(name).modules()) for name in NETWORKS}
    assert counts == {"sole": 2, "share": 1, "triple": 1}


def test_fc_head_has_batch_norm_only_where_it_starts_from_scratch() -> None:
    with torch.device("meta"):
        model = build_network(NetworkConfig("triple", "vgg16", "fc"))
    assert not any(isinstance(m, nn.BatchNorm1d) for m in model.stream.head.modules())
    assert sum(isinstance(m, nn.BatchNorm1d) for m in model.cross.head.modules()) == 2


@pytest.mark.parametrize(
    "settings", [{"network": "tripel"}, {"trunk": "vgg19"}, {"head": "gab"}, {"tap": "relu9_9", "trunk": "tiny"}]
)
def test_unknown_parts_are_config_errors(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="unknown"):
        build_network(NetworkConfig(**settings))
