"""Execution engines, by name."""

from typing import TYPE_CHECKING

from derm_ray.registry import Registry

if TYPE_CHECKING:
    from derm_ray.inference.engines.engine import EngineKind

ENGINES: "Registry[EngineKind]" = Registry(
    "engine",
    {
        "torch": "derm_ray.inference.engines.pytorch:TORCH",
        "torch-bf16": "derm_ray.inference.engines.pytorch:TORCH_BF16",
        "compiled": "derm_ray.inference.engines.pytorch:COMPILED",
        "openvino-int8": "derm_ray.inference.engines.openvino:INT8",
    },
)
