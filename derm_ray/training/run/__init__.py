"""A training run on Ray: the driver's side, the workers' side, and the feed between storage and workers."""

from derm_ray.training.run.driver import TrainResult, train

__all__ = ["TrainResult", "train"]
