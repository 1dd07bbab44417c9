"""Training: the recipe, the plain torch loop, and the run on Ray Train."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from derm_ray.registry import Registry

if TYPE_CHECKING:
    from derm_ray.training.config import TrainConfig

PRESETS: Registry[Callable[[], "TrainConfig"]] = Registry(
    "preset", {name: f"derm_ray.training.config:{name}" for name in ("paper", "cpu", "light", "strong", "debug")}
)
"""Recipes to start from."""
