"""derm_ray: paired clinical and dermoscopy skin-lesion classification on Ray.

Research software, not a medical device. The names in ``__all__`` are the public API; each is imported when it is first
used, so that ``import derm_ray`` itself loads neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from derm_ray.bundle import load_bundle
    from derm_ray.data.inputs import open_input
    from derm_ray.data.manifest import read_manifest
    from derm_ray.data.preprocessing import pixels_from_bytes
    from derm_ray.evaluation.evaluate import evaluate
    from derm_ray.inference.predictor import Predictor
    from derm_ray.scoring.pipeline import score
    from derm_ray.training.config import make_config
    from derm_ray.training.run.driver import train

__version__ = "0.1.0"

RESEARCH_NOTICE = "For research use only; not a medical device."

__all__ = [
    "RESEARCH_NOTICE",
    "Predictor",
    "__version__",
    "evaluate",
    "load_bundle",
    "make_config",
    "open_input",
    "pixels_from_bytes",
    "read_manifest",
    "score",
    "train",
]

_MODULES = {
    "Predictor": "derm_ray.inference.predictor",
    "evaluate": "derm_ray.evaluation.evaluate",
    "load_bundle": "derm_ray.bundle",
    "make_config": "derm_ray.training.config",
    "open_input": "derm_ray.data.inputs",
    "pixels_from_bytes": "derm_ray.data.preprocessing",
    "read_manifest": "derm_ray.data.manifest",
    "score": "derm_ray.scoring.pipeline",
    "train": "derm_ray.training.run.driver",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'derm_ray' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
