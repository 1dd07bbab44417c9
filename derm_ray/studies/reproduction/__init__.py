"""The paper's tables and metrics again, on any manifest."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from derm_ray.registry import Registry

if TYPE_CHECKING:
    from derm_ray.studies.reproduction.grid import Row

PRESETS: Registry[Callable[[str], "tuple[Row, ...]"]] = Registry(
    "study preset",
    {
        "paper": "derm_ray.studies.reproduction.grid:paper",
        "milk10k-cpu": "derm_ray.studies.reproduction.grid:milk10k_cpu",
        "debug": "derm_ray.studies.reproduction.grid:debug",
    },
)
"""Label set -> rows to train."""
