import pytest
import torch
from torch import Tensor

from derm_ray.models.pooling import BilinearPool, normalize_map, resize_map, uniform_map, weighted_gram


def features(channels: int = 6, side: int = 4, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, channels, side, side, generator=generator, dtype=dtype)
    return maps, normalize_map(torch.rand(2, side, side, generator=generator)).to(dtype)


def literal(maps: Tensor, weights: Tensor) -> Tensor:
    """Eq. 6 position by position: the sum of A(i, j) vec(f(i, j) f(i, j)^T)."""
    batch, channels, height, width = maps.shape
    total = torch.zeros(batch, channels, channels, dtype=maps.dtype)
    for i in range(height):
        for j in range(width):
            column = maps[:, :, i, j]
            total += weights[:, i, j, None, None] * column[:, :, None] * column[:, None, :]
    return total


def test_the_matrix_product_is_the_literal_sum_of_outer_products() -> None:
    maps, weights = features()
    assert torch.allclose(weighted_gram(maps, weights), literal(maps, weights), atol=1e-12)
    single, weight = features(dtype=torch.float32)
    assert torch.allclose(weighted_gram(single, weight), literal(single, weight), atol=1e-5)


def test_gradients() -> None:
    maps, weights = features(channels=3, side=2)
    maps.requires_grad_()
    weights.requires_grad_()
    assert torch.autograd.gradcheck(weighted_gram, (maps, weights))
    assert torch.autograd.gradcheck(BilinearPool(3).double(), (maps, weights))


def test_a_uniform_map_is_plain_bilinear_pooling() -> None:
    maps, _ = features()
    pool = BilinearPool(6)
    assert torch.allclose(pool(maps, uniform_map(maps).double()), pool(maps), atol=1e-6)
    flat = maps.flatten(2)
    assert torch.allclose(weighted_gram(maps, uniform_map(maps)), flat @ flat.transpose(1, 2) / 16, atol=1e-6)


def test_the_half_keeps_inner_products_of_the_whole() -> None:
    first, weights = features()
    second = first.flip(0) + 0.1
    pool = BilinearPool(6)

    def whole(maps: Tensor) -> Tensor:
        gram = weighted_gram(maps, weights).flatten(1)
        return torch.nn.functional.normalize(gram.sign() * (gram.abs() + 1e-8).sqrt(), dim=1)

    halves = (pool(first, weights) * pool(second, weights)).sum(1)
    assert pool.size == 21
    assert torch.allclose(halves, (whole(first) * whole(second)).sum(1), atol=1e-6)
    assert torch.allclose(pool(first, weights).norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert BilinearPool(512).size == 131_328


def test_autocast_does_not_reach_the_gram_matrix() -> None:
    maps, weights = features(dtype=torch.float32)
    pool = BilinearPool(6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pool(maps, weights)
    assert inside.dtype is torch.float32
    assert torch.equal(inside, pool(maps, weights))


def test_a_compact_pool_projects_first() -> None:
    maps, weights = features(dtype=torch.float32)
    pool = BilinearPool(6, rank=2)
    assert pool.size == 3
    assert pool(maps, weights).shape == (2, 3)
    pool(maps, weights).sum().backward()
    assert pool.project.weight.grad.abs().sum() > 0


def test_descriptors_of_nothing_stay_finite() -> None:
    maps = torch.zeros(1, 4, 3, 3, requires_grad=True)
    pool = BilinearPool(4)
    pool(maps).sum().backward()
    assert torch.isfinite(maps.grad).all()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_map_that_vanishes_becomes_uniform(value: float) -> None:
    weights = normalize_map(torch.full((1, 2, 3), value))
    assert torch.allclose(weights, torch.full((1, 2, 3), 1 / 6))


def test_maps_on_another_grid_still_sum_to_one() -> None:
    weights = normalize_map(torch.rand(2, 14, 14))
    smaller = resize_map(weights, 7, 7)
    assert smaller.shape == (2, 7, 7)
    assert torch.allclose(smaller.sum((1, 2)), torch.ones(2))
    assert resize_map(weights, 14, 14) is weights


def test_no_tensor_is_larger_than_the_gram_matrices() -> None:
    """VGG-16 at 224 px: 196 outer products of 512x512 would be 196 times as large."""
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):
                largest = max(largest, result.numel())
            return result

    maps = torch.rand(2, 512, 14, 14, requires_grad=True)
    with Watch():
        BilinearPool(512)(maps, uniform_map(maps)).sum().backward()
    assert largest == 2 * 512 * 512
