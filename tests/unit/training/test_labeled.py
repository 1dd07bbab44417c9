import numpy as np
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, Split, label_set
from derm_ray.errors import ConfigError
from derm_ray.training.batches import labeled


def test_label_sets_share_the_listed_pairs(pairs: Manifest) -> None:
    """Caches hold what is listed: a task that leaves pairs out finds the others at their places."""
    whole = labeled(pairs, Split.TRAIN, PAPER15)
    assert whole.positions.tolist() == list(range(len(whole)))
    part = labeled(pairs, Split.TRAIN, label_set("paper15_melanoma"))
    assert part.listed == whole.listed == tuple(whole.pairs)
    assert len(part) < len(whole)
    assert part.share(np.array([2, 0])).pairs == [part.pairs[2], part.pairs[0]]
    for pair, index in zip(part.pairs, part.labels, strict=True):
        assert pair.diagnosis not in ("basal_cell_carcinoma", "squamous_cell_carcinoma")
        assert index == (pair.diagnosis == "melanoma")


def test_a_split_that_a_task_leaves_out_whole_is_one_message(pairs: Manifest) -> None:
    only = pairs.with_column("diagnosis", ["basal_cell_carcinoma"] * len(pairs))
    with pytest.raises(ConfigError, match="'paper15_melanoma' excludes every pair of split val"):
        labeled(only, Split.VAL, label_set("paper15_melanoma"))
