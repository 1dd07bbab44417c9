from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from derm_ray.data.manifest import Manifest
from derm_ray.domain import LABEL_SETS, MILK10K, PAPER15, LesionPair
from derm_ray.errors import BundleError, ConfigError
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.networks import PairLogits
from derm_ray.training.batches import Batch, LabeledPairs
from derm_ray.training.config import debug
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.losses import SoftTargets, pair_loss
from derm_ray.training.run.teacher import load_teacher
from tests.conftest import seal_untrained


def test_the_loss_is_hintons_by_hand() -> None:
    """Of one pair and two classes: (1 - w) CE + w T^2 KL, T = 2 halves the logits of both."""
    clinical, dermoscopy, triple = (torch.tensor([[value, 0.0]]) for value in (2.0, 0.0, -2.0))
    teacher = np.array([[[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]]], np.float32)
    soft = SoftTargets(torch.from_numpy(teacher), 0.25, 2.0)
    found = pair_loss(
        PairLogits(clinical, dermoscopy, triple),
        torch.tensor([[True, False]]),
        loss="cross_entropy",
        alpha=1.5,
        teacher=soft,
    )

    def cost(logit: float, p: float) -> float:
        hard = np.log1p(np.exp(-logit))
        at_two = np.sqrt(p) / (np.sqrt(p) + np.sqrt(1 - p))
        own = 1 / (1 + np.exp(-logit / 2))
        divergence = at_two * np.log(at_two / own) + (1 - at_two) * np.log((1 - at_two) / (1 - own))
        return float(0.75 * hard + 0.25 * 4 * divergence)

    assert found.tolist() == pytest.approx([cost(2, 0.5) + cost(0, 0.9) + 1.5 * cost(-2, 0.2)], rel=1e-5)


def test_a_student_without_a_third_sub_network_and_a_sure_teacher() -> None:
    sure = SoftTargets(torch.tensor([[[1.0, 0.0]] * 3]), 1.0, 1.0)
    even = torch.zeros(1, 2)
    found = pair_loss(
        PairLogits(even, even, None), torch.tensor([[False, True]]), loss="squared", alpha=1.5, teacher=sure
    )
    assert found.tolist() == pytest.approx([2 * np.log(2)])


def test_a_student_learns_what_only_its_teacher_knows() -> None:
    """Labels are all class 0, and the teacher says class 3: with weight 1 the student follows the teacher."""
    config = replace(debug(), size=32, precision="fp32", global_batch_size=8, distillation_weight=1.0)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    teacher = np.full((8, 3, 15), 0.01, np.float32)
    teacher[:, :, 3] = 0.86
    batch = Batch(images[0], images[1], np.eye(15, dtype=bool)[[0] * 8], np.arange(8), 8, teacher)
    torch.manual_seed(0)
    loop = TrainingLoop(config, build_network(config.architecture()), torch.device("cpu"))
    for epoch in range(20):
        loop.train_epoch(epoch, [batch], lambda *_: None, steps=1)
    assert all((of.argmax(1) == 3).all() for of in loop.predict([batch], 8).values())


def test_the_teacher_travels_with_its_pairs() -> None:
    teacher = np.arange(5 * 3 * 2, dtype=np.float32).reshape(5, 3, 2)
    split = LabeledPairs((LesionPair("p", "l"),) * 5, np.arange(5), np.eye(15, dtype=bool)[:5], teacher)
    share = split.share(np.array([4, 0, 2]), rank=1, world_size=2)
    assert share.indices.tolist() == [2]
    assert share.teacher is not None
    assert np.array_equal(share.teacher, teacher[[2]])
    assert replace(split, teacher=None).share(np.array([1])).teacher is None


def test_teachers_that_do_not_fit_are_one_message(pairs: Manifest, bundle_uri: str, tmp_path: Path) -> None:
    assert load_teacher(bundle_uri, PAPER15, pairs).label_set is PAPER15
    other = seal_untrained(str(tmp_path / "milk"), NetworkConfig(trunk="tiny", classes=11), label_set=MILK10K)
    with pytest.raises(
        ConfigError, match=r"its label set is milk10k, the recipe's paper15: .* only in the recipe.*more"
    ):
        load_teacher(other, PAPER15, pairs)
    with pytest.raises(ConfigError, match="not_cancer only in the recipe"):
        load_teacher(bundle_uri, LABEL_SETS["paper15_cancer"], pairs)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        load_teacher(str(tmp_path), PAPER15, pairs)
    prepared = replace(pairs, table=pairs.table.append_column("prepared_size", pa.array([64] * len(pairs))))
    with pytest.raises(ConfigError, match="the teacher's size is 48"):
        load_teacher(bundle_uri, PAPER15, prepared)
