import pytest
import torch
from torch import nn

from derm_ray.errors import ConfigError
from derm_ray.models.cam import CAM_MODES, saliency
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.models.heads import CamBilinearHead, CamHead
from derm_ray.models.trunks import Trunk
from derm_ray.models.weights import describe_cam, load_cam


def maps_and_logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 4, generator=generator), torch.randn(2, 3, generator=generator)


@pytest.mark.parametrize("mode", CAM_MODES)
def test_every_mode_gives_weights(mode: str) -> None:
    weights = saliency(*maps_and_logits(), mode)
    assert weights.shape == (2, 4, 4)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum((1, 2)), torch.ones(2))


def test_modes_are_what_they_say() -> None:
    maps, logits = maps_and_logits()
    one = maps[:1]
    best = one[0, logits[0].argmax()].clamp_min(0)
    assert torch.allclose(saliency(one, logits[:1], "top1")[0], best / best.sum())
    certain = torch.tensor([[50.0, 0.0, 0.0]])
    assert torch.allclose(saliency(one, certain, "probability"), saliency(one, certain, "top1"), atol=1e-6)
    positive = one.clamp_min(0).sum(1)
    assert torch.allclose(saliency(one, certain, "relu_sum"), positive / positive.sum())
    printed = one.sum(1).clamp_min(0)
    assert torch.allclose(saliency(one, certain, "literal"), printed / printed.sum())


def test_the_mean_of_an_activation_map_is_its_logit_without_the_bias() -> None:
    head = CamHead(8, 5, dropout=0.0).eval()
    maps, logits = head.explain(torch.rand(2, 8, 4, 4))
    assert torch.allclose(maps.mean((2, 3)) + head.classifier.bias, logits, atol=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
def test_the_literal_sum_over_classes_does_not_learn_and_relu_sum_does(loss: str) -> None:
    """Softmax losses push the class weights by amounts that add up to zero over the classes (section 2.2, Eq. 6)."""
    torch.manual_seed(0)
    head = CamHead(8, 5, dropout=0.0)
    head.conv.requires_grad_(False)
    head.conv.eval()
    batch, labels = torch.rand(16, 8, 4, 4), torch.arange(16) % 5
    batch[:, 0] += (labels == 0)[:, None, None] * 3.0
    before = {mode: raw(head, batch, mode) for mode in ("literal", "relu_sum")}
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    for _ in range(20):
        logits = head(batch)
        if loss == "squared":
            objective = (logits.softmax(1) - nn.functional.one_hot(labels, 5)).square().sum(1).mean()
        else:
            objective = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
    after = {mode: raw(head, batch, mode) for mode in before}
    moved = {mode: (after[mode] - before[mode]).abs().max().item() for mode in before}
    assert moved["literal"] < 1e-4
    assert moved["relu_sum"] > 0.05


def raw(head: CamHead, batch: torch.Tensor, mode: str) -> torch.Tensor:
    maps, _ = head.explain(batch)
    return (maps.sum(1) if mode == "literal" else maps.clamp_min(0).sum(1)).detach()


def trained_cam(network: str = "share", freeze: str = "none") -> tuple[NetworkConfig, dict[str, torch.Tensor]]:
    config = NetworkConfig(network, "tiny", "cam", 5)
    return config, build_network(config, freeze=freeze).state_dict()


def test_a_trained_cam_network_goes_in_with_its_weights_and_stays_frozen() -> None:
    for name, streams in (("share", 1), ("sole", 2)):
        config, weights = trained_cam(name)
        part = describe_cam(config, weights, "relu_sum", Trunk("tiny"), "none")
        assert (part.networks, part.stem) == (streams, None)
        model = build_network(NetworkConfig("triple", "tiny", "cam_bp", 5, cam=part))
        load_cam(model, weights)
        model.train()
        assert not any(module.training for module in model.cam.modules())
        before = {key: value.clone() for key, value in model.cam.state_dict().items()}
        logits = model(torch.rand(4, 3, 32, 32), torch.rand(4, 3, 32, 32))
        sum(part.sum() for part in logits).backward()
        assert all(torch.equal(value, before[key]) for key, value in model.cam.state_dict().items())
        assert all(p.grad is None for p in model.cam.parameters())


def test_the_stem_is_shared_only_where_it_is_the_same() -> None:
    trunk = Trunk("tiny", freeze="pool2")
    config, weights = trained_cam(freeze="pool2")
    assert describe_cam(config, weights, "relu_sum", trunk, "pool2").stem is None
    same = weights | {f"stream.trunk.{key}": value for key, value in trunk.state_dict().items()}
    part = describe_cam(config, same, "relu_sum", trunk, "pool2")
    assert part.stem == "pool2"
    model = build_network(NetworkConfig("share", "tiny", "cam_bp", 5, cam=part)).eval()
    model.stream.trunk.load_state_dict(trunk.state_dict())
    load_cam(model, same)
    alone = build_network(NetworkConfig("share", "tiny", "cam_bp", 5, cam=CamConfig("tiny", 5))).eval()
    alone.stream.load_state_dict(model.stream.state_dict())
    load_cam(alone, same)
    image = torch.rand(2, 3, 32, 32)
    assert torch.allclose(model.saliency(image, None).clinical, alone.saliency(image, None).clinical, atol=1e-6)


def test_what_is_no_cam_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="head=cam"):
        describe_cam(NetworkConfig("share", "tiny", "gap", 5), {}, "relu_sum", Trunk("tiny"), "none")
    with pytest.raises(ConfigError, match="Did you mean"):
        CamConfig("tiny", 5, mode="relu_som")
    with pytest.raises(ConfigError, match="requires a CAM network"):
        NetworkConfig(head="cam_bp")
    with pytest.raises(ConfigError, match="takes one image"):
        NetworkConfig("triple", head="cam")
    with pytest.raises(ConfigError, match="rank 8 applies to"):
        NetworkConfig(rank=8)


def test_the_map_steers_the_pool() -> None:
    torch.manual_seed(0)
    head = CamBilinearHead(8, 5)
    nn.init.normal_(head.classifier.weight)
    maps = torch.rand(1, 8, 4, 4)
    corner = torch.zeros(1, 4, 4)
    corner[0, 0, 0] = 1.0
    changed = maps.clone()
    changed[:, :, 3, 3] += 5.0
    assert torch.allclose(head(maps, corner), head(changed, corner), atol=1e-6)
    uniform = torch.full((1, 4, 4), 1 / 16)
    assert not torch.allclose(head(maps, uniform), head(changed, uniform), atol=1e-3)
