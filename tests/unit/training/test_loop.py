from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from derm_ray.domain import PredictionKind
from derm_ray.errors import ImageError, ImageErrorCode, TrainingError
from derm_ray.models.factory import build_network
from derm_ray.training.batches import Batch
from derm_ray.training.config import TrainConfig, debug
from derm_ray.training.loop import TrainingLoop, sealed_weights

CONFIG = replace(debug(), size=32, precision="fp32", dropout=0.3, global_batch_size=8)

ADAMW = replace(
    CONFIG, optimizer="adamw", learning_rate=1e-3, head_learning_rate=1e-3, schedule="cosine", warmup_epochs=0.5
)


def batches(count: int) -> list[Batch]:
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, count, 8, 32, 32, 3), dtype=np.uint8)
    labels = np.eye(15, dtype=bool)[generator.integers(0, 15, (count, 8))]
    return [Batch(images[0, i], images[1, i], labels[i], np.arange(8) + 8 * i, 8) for i in range(count)]


def loop(config: TrainConfig = CONFIG) -> TrainingLoop:
    torch.manual_seed(config.seed)
    return TrainingLoop(config, build_network(config.architecture(), dropout=config.dropout), torch.device("cpu"))


def run(trainer: TrainingLoop, epoch: int) -> list[float]:
    return trainer.train_epoch(epoch, batches(3), lambda *_: None, steps=3)


def test_training_lowers_the_loss_and_repeats_exactly() -> None:
    first, second = loop(), loop()
    losses = [run(first, epoch) for epoch in range(6)]
    assert np.mean(losses[-1]) < np.mean(losses[0])
    assert losses == [run(second, epoch) for epoch in range(6)]


def test_a_resumed_run_equals_an_unbroken_one() -> None:
    whole, broken = loop(), loop()
    run(whole, 0)
    run(broken, 0)
    resumed = loop(replace(CONFIG, seed=0))
    resumed.load_state_dict(broken.state_dict())
    assert run(whole, 1) == run(resumed, 1)


@pytest.mark.parametrize("config", [CONFIG, ADAMW, replace(CONFIG, ema_decay=0.9)], ids=["sgd", "adamw", "ema"])
def test_an_epoch_resumed_in_its_middle_equals_an_unbroken_one(config: TrainConfig) -> None:
    """With dropout: the random numbers of a step depend on nothing that came before it."""
    whole, broken, resumed = loop(config), loop(config), loop(config)
    told: list[tuple[int, bool]] = []
    kept: list[dict[str, Any]] = []

    def on_step(step: int, loss: float, due: bool) -> None:
        told.append((step, due))
        if due:
            kept.append(deepcopy(broken.state_dict()))

    asked = iter([False, True, False])
    losses = broken.train_epoch(0, batches(3), on_step, steps=3, should_checkpoint=lambda: next(asked))
    assert losses == run(whole, 0)
    assert told == [(1, False), (2, True), (3, False)]
    resumed.load_state_dict(kept[0])
    told.clear()
    assert resumed.train_epoch(0, batches(3)[2:], on_step, steps=3, start_step=2) == losses[2:]
    assert told == [(3, False)]
    assert run(whole, 1) == run(resumed, 1)
    for one, other in zip(
        whole.predict(batches(3), 24).values(), resumed.predict(batches(3), 24).values(), strict=True
    ):
        assert np.array_equal(one, other)


def test_an_epoch_resumed_behind_its_last_step_equals_an_unbroken_one() -> None:
    whole, resumed = loop(), loop()
    run(whole, 0)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    assert resumed.train_epoch(0, [], lambda *_: None, steps=3, start_step=3) == []
    assert run(whole, 1) == run(resumed, 1)
    assert run(whole, 2) == run(resumed, 2)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    trainer = loop(replace(CONFIG, learning_rate=1e30, head_learning_rate=1e30, clip_norm=0.0))
    with pytest.raises(TrainingError, match=r"the loss became .* at epoch 1, step \d"):
        run(trainer, 0)


def test_a_batch_that_cannot_be_read_stops_the_run_with_its_error() -> None:
    error = ImageError(ImageErrorCode.MISSING, "pair 7: not found")
    with pytest.raises(ImageError, match="pair 7"):
        loop().train_epoch(0, [*batches(1), error], lambda *_: None, steps=2)
    with pytest.raises(ImageError, match="pair 7"):
        loop().predict([*batches(1), error], 16)


def test_predictions_land_in_their_rows() -> None:
    trainer = loop()
    forward = trainer.predict(batches(3), 24)
    backward = trainer.predict(list(reversed(batches(3))), 24)
    for kind in PredictionKind:
        assert forward[kind].shape == (24, 15)
        assert np.allclose(forward[kind], backward[kind], atol=1e-6)
        assert np.allclose(forward[kind].sum(1), 1, atol=1e-5)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    trainer = loop(replace(CONFIG, freeze_batch_norm=True))
    before = {k: v.clone() for k, v in trainer.network.state_dict().items() if "running" in k}
    run(trainer, 0)
    after = trainer.network.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_the_average_of_the_weights_is_what_is_validated_and_sealed() -> None:
    """With a decay of 0.5 the last steps count 1/2, 1/4, ..., from the third on, where 1 - 2 / 11 is above that."""
    trainer = loop(replace(CONFIG, ema_decay=0.15))
    taken: list[dict[str, torch.Tensor]] = []
    trainer.train_epoch(0, batches(3), lambda *_: taken.append(deepcopy(trainer.network.state_dict())), steps=3)
    sealed = sealed_weights(trainer.state_dict())
    for key, value in sealed.items():
        if value.is_floating_point():
            first, second, third = (step[key] for step in taken)
            assert torch.allclose(value, 0.15 * (0.15 * first + 0.85 * second) + 0.85 * third, atol=1e-6)
    network = build_network(CONFIG.architecture())
    network.load_state_dict(sealed)
    plain = TrainingLoop(CONFIG, network, torch.device("cpu"))
    for one, other in zip(
        trainer.predict(batches(3), 24).values(), plain.predict(batches(3), 24).values(), strict=True
    ):
        assert np.allclose(one, other, atol=1e-6)
    assert sealed.keys() == sealed_weights(plain.state_dict()).keys()


def test_a_step_in_parts_equals_one_in_one_go() -> None:
    exact = replace(CONFIG, dropout=0.0, freeze_batch_norm=True)
    whole, parts = loop(exact), loop(replace(exact, accumulation=3))
    assert [len(part.classes) for part in batches(1)[0].parts(3)] == [3, 3, 2]
    assert run(parts, 0) == pytest.approx(run(whole, 0), rel=1e-5)
