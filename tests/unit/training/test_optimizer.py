import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from derm_ray.errors import ConfigError
from derm_ray.models.factory import build_network
from derm_ray.models.trunks import Trunk
from derm_ray.training.config import TrainConfig, debug, make_config
from derm_ray.training.losses import pair_loss
from derm_ray.training.optimizer import make_optimizer, set_rates

CONFIG = replace(debug(), epochs=4, learning_rate=0.01, head_learning_rate=0.1)


def rates(config: TrainConfig, epoch: int, step: int) -> list[float]:
    optimizer = make_optimizer(build_network(config.architecture()), config)
    set_rates(optimizer, config, epoch, step, steps=10)
    return [group["lr"] for group in optimizer.param_groups]


def test_the_trunk_and_the_heads_decay_every_epoch() -> None:
    assert rates(CONFIG, 0, 1) == rates(CONFIG, 0, 10) == [0.01, 0.1]
    assert rates(CONFIG, 2, 1) == pytest.approx([0.01 * 0.95**2, 0.1 * 0.95**2])


def test_a_cosine_falls_in_every_step_to_zero() -> None:
    config = replace(CONFIG, schedule="cosine")
    assert rates(config, 0, 1) == [0.01, 0.1]
    assert rates(config, 2, 1) == pytest.approx([0.005, 0.05])
    end = (1 + math.cos(math.pi * 39 / 40)) / 2
    assert rates(config, 3, 10) == pytest.approx([0.01 * end, 0.1 * end])


def test_the_rates_rise_over_the_first_epochs() -> None:
    config = replace(CONFIG, warmup_epochs=0.5, lr_decay=1.0)
    assert rates(config, 0, 1) == pytest.approx([0.002, 0.02])
    assert rates(config, 0, 5) == rates(config, 3, 10) == [0.01, 0.1]


@pytest.mark.parametrize("epochs", ["4", "inf", "nan"])
def test_rates_that_never_rise_are_refused(epochs: str) -> None:
    with pytest.raises(ConfigError, match="warmup_epochs"):
        make_config("debug", {"epochs": "4", "warmup_epochs": epochs})


def test_adamw_decays_matrices_only_and_sgd_all() -> None:
    network = build_network(CONFIG.architecture())
    for optimizer, spared in (("sgd", 0), ("adamw", sum(p.ndim < 2 for p in network.parameters()))):
        groups = make_optimizer(network, replace(CONFIG, optimizer=optimizer)).param_groups
        without = [p for group in groups if group["weight_decay"] == 0 for p in group["params"]]
        assert len(without) == spared
        assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))


def test_early_stages_of_a_trunk_learn_more_slowly() -> None:
    config = replace(CONFIG, layer_decay=0.5)
    network = build_network(config.architecture())
    of = {id(p): group["lr"] for group in make_optimizer(network, config).param_groups for p in group["params"]}
    trunks = [module for module in network.modules() if isinstance(module, Trunk)]
    assert trunks
    for trunk in trunks:
        found = [{of[id(p)] for p in stage.parameters()} for stage in trunk.stages()]
        rates = [rate for stage in found for rate in stage]
        assert rates == pytest.approx([0.01 * 0.5 ** (len(found) - 1 - at) for at in range(len(found)) if found[at]])
        assert len(rates) > 1
    assert len(of) == len(list(network.parameters()))


def test_frozen_layers_are_not_optimized() -> None:
    network = nn.Linear(2, 2).requires_grad_(False)
    network.bias.requires_grad_(True)
    (group,) = make_optimizer(network, CONFIG).param_groups
    assert group["params"] == [network.bias]


def test_smoothed_labels_are_of_cross_entropy() -> None:
    network = build_network(CONFIG.architecture()).eval()
    images = torch.randint(0, 256, (2, 3, 32, 32))
    logits, labels = network(images, images), torch.eye(15, dtype=torch.bool)[[0, 1]]
    losses = [pair_loss(logits, labels, loss="cross_entropy", alpha=1.5, smoothing=share) for share in (0.0, 0.5, 1.0)]
    assert torch.allclose(losses[1], (losses[0] + losses[2]) / 2)
    assert not torch.allclose(losses[0], losses[2])
    with pytest.raises(ConfigError, match="label_smoothing applies to loss cross_entropy only"):
        make_config("paper", {"label_smoothing": 0.1})
