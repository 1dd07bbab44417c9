import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from derm_ray.domain import LesionPair
from derm_ray.errors import ConfigError
from derm_ray.models.networks import PairLogits
from derm_ray.training import PRESETS
from derm_ray.training.batches import (
    LabeledPairs,
    check_batch_size,
    evaluation_order,
    training_order,
)
from derm_ray.training.config import config_from_json, make_config, parse_settings
from derm_ray.training.losses import cross_entropy, pair_loss, squared


def test_the_loss_is_the_papers_by_hand() -> None:
    """Eq. 1-5 for one pair and two classes, worked out on paper."""
    logits = torch.tensor([[math.log(3.0), 0.0]])  # softmax 0.75, 0.25
    even = torch.tensor([[0.0, 0.0]])  # softmax 0.5, 0.5
    label = torch.tensor([[True, False]])
    assert squared(logits, label).item() == pytest.approx(0.25**2 + 0.25**2)
    assert squared(even, label).item() == pytest.approx(0.5)
    total = pair_loss(PairLogits(logits, even, even), label, loss="squared", alpha=1.5)
    assert total.tolist() == pytest.approx([0.125 + 0.5 + 1.5 * 0.5])
    without = pair_loss(PairLogits(logits, even, None), label, loss="squared", alpha=1.5)
    assert without.tolist() == pytest.approx([0.625])
    assert cross_entropy(logits, label).item() == pytest.approx(-math.log(0.75))


def test_a_coarse_diagnosis_is_right_by_the_sum_of_its_classes() -> None:
    """Softmax 0.5, 0.3, 0.2, of which the first two are possible."""
    logits, either = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[True, True, False]])
    assert squared(logits, either).item() == pytest.approx(0.2**2 + 0.2**2)
    assert cross_entropy(logits, either).item() == pytest.approx(-math.log(0.8))
    smoothed = 0.9 * -math.log(0.8) - 0.1 * sum(map(math.log, (0.5, 0.3, 0.2))) / 3
    assert cross_entropy(logits, either, 0.1).item() == pytest.approx(smoothed)
    assert cross_entropy(logits, torch.ones(1, 3, dtype=torch.bool)).item() == pytest.approx(0, abs=1e-6)
    wide = logits.clone().requires_grad_()
    torch.autograd.backward(cross_entropy(wide, either).sum())
    assert wide.grad is not None
    assert wide.grad.isfinite().all()


def test_every_preset_is_valid_and_text_settings_are_typed() -> None:
    for name in PRESETS:
        assert config_from_json(make_config(name).to_json()) == make_config(name)
    config = make_config("cpu", parse_settings(["epochs=3", "augmentation=none", "learning_rate=1e-4"]))
    assert (config.epochs, config.augmentation, config.learning_rate) == (3, "none", 1e-4)
    assert make_config("paper").loss == "squared"
    assert make_config("paper").lr_decay == 0.95


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("papr", [], "unknown preset 'papr'. Did you mean 'paper'"),
        ("cpu", ["epoch=3"], "Did you mean 'epochs'"),
        ("cpu", ["epochs=0"], "epochs='0': expected at least 1$"),
        ("cpu", ["epochs=three"], "epochs='three': expected a whole number$"),
        ("cpu", ["epochs=1.5"], "epochs='1.5': expected a whole number$"),
        ("cpu", ["dropout=1"], "dropout='1': expected less than 1$"),
        ("cpu", ["learning_rate=fast"], "learning_rate='fast': expected a number$"),
        ("cpu", ["learning_rate=inf"], "learning_rate='inf': expected a finite number$"),
        ("cpu", ["freeze_batch_norm=maybe"], "freeze_batch_norm='maybe': expected true or false$"),
        ("cpu", ["optimizer=adam"], "optimizer='adam': expected 'sgd' or 'adamw'$"),
        ("cpu", ["lr_decay=2", "alpha=-1"], "alpha='-1'.*lr_decay|lr_decay='2'.*|alpha"),
        ("cpu", ["label_set=paper5"], "Did you mean 'paper15'"),
        ("cpu", ["epochs"], "expected key=value"),
        ("cpu", ["freeze=pool9"], "unknown freeze of trunk vgg16 'pool9'. Did you mean 'pool4'"),
        ("cpu", ["tap=relu9"], "unknown tap of trunk vgg16 'relu9'"),
        ("cpu", ["rank=8"], "rank 8 applies to bilinear heads only"),
        ("cpu", ["head=cam"], "a CAM network takes one image"),
        ("debug", ["trunk=timm/vit_tiny_patch16_224", "size=100"], "Choose 96 or 112"),
    ],
)
def test_bad_settings_are_one_message(preset: str, settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(preset, parse_settings(settings))


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_batches_are_the_same_whatever_the_number_of_workers(
    pairs: int, batch_size: int, workers: int, seed: int, epoch: int
) -> None:
    order = training_order(pairs, batch_size, seed=seed, epoch=epoch)
    assert all(len(batch) == batch_size for batch in order)
    assert len(np.unique(np.concatenate([*order, []]))) == len(order) * batch_size
    split = LabeledPairs((LesionPair("p", "l"),) * pairs, np.arange(pairs), np.ones((pairs, 1), bool))
    for batch in order:
        shares = [split.share(batch, rank, workers).indices for rank in range(workers)]
        assert np.array_equal(np.concatenate(shares), batch)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(st.integers(1, 100), st.integers(1, 20))
def test_evaluation_sees_every_pair_once(pairs: int, batch_size: int) -> None:
    assert np.concatenate(evaluation_order(pairs, batch_size)).tolist() == list(range(pairs))


def test_epochs_differ_and_repeat() -> None:
    first, again, other = (np.concatenate(training_order(50, 10, seed=0, epoch=e)) for e in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batches_too_small_for_workers_or_split_are_refused() -> None:
    check_batch_size(100, 4, 2)
    with pytest.raises(ConfigError, match="fewer than two pairs for each of 3 workers"):
        check_batch_size(100, 4, 3)
    with pytest.raises(
        ConfigError, match=r"12 and accumulation 4 leaves fewer than two pairs for each of 2 workers.*16"
    ):
        check_batch_size(100, 12, 2, 4)
    with pytest.raises(ConfigError, match="has 10 pairs, fewer than global_batch_size 16"):
        check_batch_size(10, 16, 1)


def test_what_only_reads_does_not_load_torch() -> None:
    """Decoding tasks run on CPU nodes; a torch in each of their processes would cost memory and seconds."""
    program = "import sys, derm_ray.training.run.data_loading, derm_ray.training.run.progress_relay; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
