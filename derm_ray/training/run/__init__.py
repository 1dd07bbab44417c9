"""Training on Ray: the driver's side, the workers' side, and the feed between storage and workers."""

from derm_ray.training.run.answers import SplitAnswers, answer_split
from derm_ray.training.run.cache import prepare_stems
from derm_ray.training.run.driver import TrainResult, labelled, train
from derm_ray.training.run.feed import LabelledPairs

__all__ = ["LabelledPairs", "SplitAnswers", "TrainResult", "answer_split", "labelled", "prepare_stems", "train"]
