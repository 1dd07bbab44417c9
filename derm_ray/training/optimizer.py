"""The optimizer of a run, and its learning rates step by step."""

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from derm_ray.models.trunks import Trunk
from derm_ray.training.config import TrainConfig


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters that are trained; trunks have learning rates of their own, by stage.

    AdamW does not decay vectors, which are biases and the parameters of norms; SGD decays all, as in the paper.
    """
    of_trunks = {
        id(parameter): config.learning_rate * config.layer_decay**stage
        for module in network.modules()
        if isinstance(module, Trunk)
        for stage, layers in enumerate(reversed(module.stages()))
        for parameter in layers.parameters()
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in network.parameters():
        if parameter.requires_grad:
            rate = of_trunks.get(id(parameter), config.head_learning_rate)
            decays = config.optimizer == "sgd" or parameter.ndim > 1
            groups[rate, config.weight_decay if decays else 0.0].append(parameter)
    params: list[dict[str, Any]] = [
        {"params": group, "lr": rate, "initial_lr": rate, "weight_decay": decay}
        for (rate, decay), group in groups.items()
    ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(params)
    return torch.optim.SGD(params, momentum=config.momentum)


def set_rates(optimizer: torch.optim.Optimizer, config: TrainConfig, epoch: int, step: int, steps: int) -> None:
    """Set the learning rates of a step.

    Args:
        optimizer: of :func:`make_optimizer`.
        config: the recipe.
        epoch: counted from 0.
        step: in the epoch, counted from 1.
        steps: of an epoch.
    """
    if config.schedule == "cosine":
        factor = (1 + math.cos(math.pi * (epoch + (step - 1) / steps) / config.epochs)) / 2
    else:
        factor = config.lr_decay**epoch
    if config.warmup_epochs:
        factor *= min(1.0, (epoch * steps + step) / (config.warmup_epochs * steps))
    for group in optimizer.param_groups:
        group["lr"] = factor * group["initial_lr"]
