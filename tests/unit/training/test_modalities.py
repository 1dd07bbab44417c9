"""Batches in which pairs lack an image: losses, gradients, statistics and predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from derm_ray.domain import LesionPair, PredictionKind
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.models.networks import PairLogits, PairNetwork
from derm_ray.models.present import Present
from derm_ray.training.batches import Batch, LabeledPairs
from derm_ray.training.config import debug
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.losses import SoftTargets, pair_loss
from derm_ray.training.modality_dropout import ModalityDropout

CONFIG = replace(debug(), size=32, precision="fp32", global_batch_size=8)
MIXED = np.array([[1, 1], [1, 0], [0, 1], [1, 1], [0, 1], [1, 0], [1, 1], [1, 0]], bool)
NO_CLINICAL = np.array([[0, 1]] * 8, bool)
ONE_CLINICAL = np.array([[0, 1]] * 7 + [[1, 1]], bool)
NAN = float("nan")


def batch(present: np.ndarray, rows: slice | np.ndarray = slice(None)) -> Batch:
    """Return some of eight pairs; their global batch is all eight."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (2, 8, 32, 32, 3), dtype=np.uint8)
    images[:, :] *= present.T[:, :, None, None, None].astype(np.uint8)
    classes = np.eye(15, dtype=bool)[generator.integers(0, 15, 8)]
    return Batch(images[0][rows], images[1][rows], classes[rows], np.arange(8)[rows], 8, present=present[rows])


def network(kind: str, head: str = "gap") -> PairNetwork:
    torch.manual_seed(0)
    cam = CamConfig("tiny", 15) if head == "cam_bp" else None
    return build_network(NetworkConfig(kind, "tiny", head, 15, cam=cam))


def gradients(module: PairNetwork, *batches: Batch, frozen: bool = True) -> dict[str, torch.Tensor]:
    """Return the gradients of some batches together; every parameter that is trained has one."""
    config = replace(CONFIG, freeze_batch_norm=frozen, clip_norm=0.0)
    loop = TrainingLoop(config, module, torch.device("cpu"))
    module.train()
    if frozen:
        for layer in module.modules():
            if "BatchNorm" in type(layer).__name__:
                layer.eval()
    for one in batches:
        loop._backward(one)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    assert all(p.grad is not None for p in trained.values())
    found = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


def test_costs_of_what_a_pair_lacks_are_left_out() -> None:
    """By hand: with two classes and logits (x, 0) cross-entropy is ln(1 + exp(-x))."""
    present = Present.of(np.array([[1, 1], [1, 0], [0, 1]], bool))
    clinical, dermoscopy = torch.tensor([[1.0, 0], [2, 0], [NAN, NAN]]), torch.tensor([[3.0, 0], [NAN, NAN], [4, 0]])
    triple = torch.tensor([[5.0, 0], [NAN, NAN], [NAN, NAN]])
    logits, classes = PairLogits(clinical, dermoscopy, triple), torch.tensor([[True, False]] * 3)
    found = pair_loss(logits, classes, loss="cross_entropy", alpha=1.5, present=present)

    def cost(x: float) -> float:
        return float(np.log1p(np.exp(-x)))

    assert found.tolist() == pytest.approx([cost(1) + cost(3) + 1.5 * cost(5), cost(2), cost(4)], rel=1e-5)
    even = torch.full((3, 3, 2), 0.5)
    even[1, 1:], even[2, 0], even[2, 2] = NAN, NAN, NAN
    taught = SoftTargets(even, 1.0, 1.0)
    learned = pair_loss(logits, classes, loss="cross_entropy", alpha=1.5, present=present, teacher=taught)

    def distance(x: float) -> float:
        return float(-np.log(2) + 0.5 * (np.log1p(np.exp(-x)) + np.log1p(np.exp(x))))

    expected = [distance(1) + distance(3) + 1.5 * distance(5), distance(2), distance(4)]
    assert learned.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("kind", "head"), [("sole", "gap"), ("share", "gap"), ("triple", "gap"), ("triple", "cam_bp")])
def test_a_mixed_batch_is_the_sum_of_its_parts(kind: str, head: str) -> None:
    """Each part as a batch in which all pairs have the same images."""
    module = network(kind, head)
    whole = gradients(module, batch(MIXED))
    groups = [(flags == MIXED).all(1) for flags in ([True, True], [True, False], [False, True])]
    parts = gradients(module, *(batch(MIXED, np.flatnonzero(rows)) for rows in groups))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-5), name


@pytest.mark.parametrize("kind", ["sole", "triple"])
def test_what_is_absent_does_not_count(kind: str) -> None:
    """A pair without a dermoscopy image trains as the network of its clinical one alone."""
    module, present = network(kind), np.array([[1, 0]] * 8, bool)
    alone = batch(present)
    found = gradients(module, alone)
    images = torch.from_numpy(alone.clinical).permute(0, 3, 1, 2)
    logits = module(images, None).clinical
    assert logits is not None
    classes = torch.from_numpy(alone.classes)
    (-(logits.log_softmax(1) * classes).sum(1).mean()).backward()
    for name, parameter in module.named_parameters():
        expected = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        assert torch.allclose(found[name], expected, atol=1e-6), name


@pytest.mark.parametrize("kind", ["sole", "share", "triple"])
@pytest.mark.parametrize("present", [NO_CLINICAL, ONE_CLINICAL], ids=["none", "one"])
def test_a_modality_that_is_absent_or_rare_leaves_gradients_and_statistics_intact(
    kind: str, present: np.ndarray
) -> None:
    module = network(kind)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = gradients(module, batch(present), frozen=False)
    assert all(bool(gradient.isfinite().all()) for gradient in found.values())
    learned = {name.split(".")[0] for name, gradient in found.items() if gradient.any()}
    assert learned == {"sole": {"dermoscopy"}, "share": {"stream"}, "triple": {"stream"}}[kind] | (
        {"sole": {"clinical"}, "share": set(), "triple": {"cross"}}[kind] if present.all(1).any() else set()
    )
    changed = {
        name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"dermoscopy" if kind == "sole" else "stream"}


@pytest.mark.parametrize("kind", ["sole", "triple"])
def test_pairs_with_all_images_are_computed_as_ever(kind: str) -> None:
    """Bit for bit, with or without flags."""
    module, complete = network(kind), np.ones((8, 2), bool)
    flagged = gradients(module, batch(complete))
    plain = gradients(module, replace(batch(complete), present=None))
    assert all(torch.equal(gradient, plain[name]) for name, gradient in flagged.items())


@pytest.mark.parametrize("kind", ["sole", "triple"])
def test_predictions_are_those_of_the_images_that_a_pair_has(kind: str) -> None:
    loop = TrainingLoop(CONFIG, network(kind), torch.device("cpu"))
    mixed, whole = loop.predict([batch(MIXED)], 8), loop.predict([batch(np.ones((8, 2), bool))], 8)
    given = dict(zip(PredictionKind, (*MIXED.T, MIXED.all(1)), strict=True))
    for which, probabilities in mixed.items():
        assert np.array_equal(np.isnan(probabilities).any(1), ~given[which])
        assert np.allclose(probabilities[given[which]], whole[which][given[which]], atol=1e-6)


def test_a_transformer_does_without_a_modality() -> None:
    """Its layers take no empty batch."""
    config = NetworkConfig("sole", "timm/vit_tiny_patch16_224", "gap", 15)
    torch.manual_seed(0)
    module, present = build_network(config), Present.of(NO_CLINICAL[:2])
    images = torch.rand(2, 3, 224, 224)
    logits = module.train()(images, images, present=present)
    pair_loss(logits, torch.eye(15, dtype=torch.bool)[:2], loss="squared", alpha=1.5, present=present).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert not any(parameter.grad.any() for parameter in module.clinical.parameters())  # type: ignore[union-attr]
    assert module.eval()(images, images, present=present).clinical.isnan().all()


def test_a_network_learns_from_single_images() -> None:
    loop = TrainingLoop(CONFIG, network("triple"), torch.device("cpu"))
    losses = [loop.train_epoch(epoch, [batch(MIXED)], lambda *_: None, steps=1)[0] for epoch in range(15)]
    assert losses[-1] < losses[0] / 2
    halves = replace(CONFIG, accumulation=2, freeze_batch_norm=True)
    in_parts, at_once = (
        TrainingLoop(c, network("triple"), torch.device("cpu")) for c in (halves, replace(halves, accumulation=1))
    )
    losses = [one.train_epoch(0, [batch(MIXED)], lambda *_: None, steps=1)[0] for one in (in_parts, at_once)]
    assert losses[0] == pytest.approx(losses[1])


PAIRS = 4000
ROWS = np.arange(PAIRS)


def split() -> LabeledPairs:
    """Return pairs of which every fourth has one image."""
    uris = (("c", "d"), ("c", "d"), ("c", "d"), ("c", None))
    listed = tuple(LesionPair(str(i), str(i), *uris[i % 4]) for i in range(PAIRS))
    return LabeledPairs(listed, ROWS, np.ones((PAIRS, 1), bool))


def test_one_image_of_a_pair_is_left_out_at_the_rate_and_single_images_are_kept() -> None:
    share = split().share(ROWS)
    present = ModalityDropout(0.3, seed=0, epoch=0)(share).present
    assert share.present[:, 0].all()
    assert present[3::4].tolist() == [[True, False]] * 1000
    pairs = np.delete(present, np.s_[3::4], 0)
    assert pairs.any(1).all()
    assert np.allclose((~pairs).mean(0), 0.15, atol=0.02)
    assert not ModalityDropout(1.0, 0, 0)(share).present.all(1).any()
    assert ModalityDropout(0.0, 0, 0)(share) is share


def test_what_is_left_out_depends_on_seed_epoch_and_pair_only() -> None:
    pairs, dropout = split(), ModalityDropout(0.3, seed=0, epoch=1)
    whole = dropout(pairs.share(ROWS)).present
    halves = [dropout(pairs.share(ROWS, rank, 2)).present for rank in range(2)]
    assert np.array_equal(whole, np.concatenate(halves))
    for other in (ModalityDropout(0.3, 0, 2), ModalityDropout(0.3, 1, 1)):
        assert not np.array_equal(whole, other(pairs.share(ROWS)).present)
