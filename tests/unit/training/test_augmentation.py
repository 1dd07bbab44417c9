from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ConfigError
from derm_ray.training.augmentation import POLICIES, Augmentation
from derm_ray.training.batches import load_images
from derm_ray.training.config import debug, make_config
from derm_ray.training.run.cache import common_stem
from derm_ray.training.start import make_start

PAIR = LesionPair("1", "1")
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


def augmented(policy: str, *, pair: LesionPair = PAIR, epoch: int = 0, image: np.ndarray = IMAGE) -> np.ndarray:
    return Augmentation(POLICIES[policy], 0, epoch).apply(image, 32, pair, Modality.CLINICAL)


def test_mirroring_is_a_fair_coin_keyed_by_pair_epoch_and_modality() -> None:
    pairs = [LesionPair(str(i), str(i)) for i in range(500)]
    first, second = (Augmentation(POLICIES["mirror"], 0, epoch) for epoch in range(2))
    coins = [of.mirrors(pair, modality) for of in (first, second) for pair in pairs for modality in Modality]
    assert 0.45 < np.mean(coins) < 0.55
    assert coins[:1000] != coins[1000:]
    assert coins[:1000:2] != coins[1:1000:2]
    assert coins[:1000] == [first.mirrors(pair, modality) for pair in pairs for modality in Modality]
    assert not any(Augmentation(POLICIES["none"], 0, 0).mirrors(pair, Modality.CLINICAL) for pair in pairs)


def test_mirroring_keeps_every_pixel() -> None:
    found = {augmented("mirror", epoch=epoch).tobytes() for epoch in range(20)}
    assert found == {IMAGE.tobytes(), IMAGE[:, ::-1].tobytes()}
    assert augmented("none").tobytes() == IMAGE.tobytes()


@pytest.mark.parametrize("policy", ["standard", "strong"])
def test_an_image_is_changed_alike_whenever_it_is_asked_for(policy: str) -> None:
    found = [augmented(policy, epoch=epoch) for epoch in range(4)]
    assert all(image.shape == (32, 32, 3) and image.dtype == np.uint8 for image in found)
    assert len({image.tobytes() for image in found}) == 4
    with ThreadPoolExecutor(4) as executor:
        again = list(executor.map(lambda epoch: augmented(policy, epoch=epoch), range(4)))
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))
    assert not np.array_equal(found[0], augmented(policy, pair=LesionPair("2", "2")))


def test_crops_keep_at_least_their_share_and_colors_change_a_little() -> None:
    """On an image whose red and green tell the place."""
    place = np.linspace(0, 255, 80).round().astype(np.uint8)
    image = np.stack(np.broadcast_arrays(place[:, None], place[None, :], np.uint8(128)), 2)
    policy = replace(POLICIES["standard"], color=0.0, turns=False, mirror=False)
    for epoch in range(50):
        crop = Augmentation(policy, 0, epoch).apply(image, 32, PAIR, Modality.CLINICAL).astype(float)
        high, wide = (np.ptp(crop[..., channel]) / 255 for channel in (0, 1))
        assert high * wide > 0.85 * policy.crop
        assert 0.7 < high / wide < 1.45
    gray = np.full((40, 40, 3), 128, np.uint8)
    means = [augmented("standard", epoch=epoch, image=gray).mean() for epoch in range(20)]
    assert 128 * 0.79 <= min(means) < 118
    assert 138 < max(means) <= 128 * 1.21


def test_crops_are_taken_from_larger_images(pairs: Manifest) -> None:
    few, spec = pairs.pairs()[:3], Preprocessing(32)
    standard = Augmentation(POLICIES["standard"], 0, 0)
    assert standard.before(spec).size == 40
    assert Augmentation(POLICIES["mirror"], 0, 0).before(spec) == spec
    with ThreadPoolExecutor(2) as executor:
        large, changed = load_images(few, Preprocessing(40), executor), load_images(few, spec, executor, standard)
    assert changed.shape == (2, 3, 32, 32, 3)
    for slot, modality in enumerate(Modality):
        for row, pair in enumerate(few):
            assert np.array_equal(changed[slot, row], standard.apply(large[slot, row], 32, pair, modality))


def test_a_cache_holds_whole_images() -> None:
    config = replace(debug(), freeze="pool2", augmentation="standard")
    with pytest.raises(ConfigError, match=r"augmentation=standard changes.*augmentation=mirror"):
        common_stem(config, make_start(config, None, None).network)


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown augmentation 'stron'\. Did you mean 'strong'"):
        make_config("light", {"augmentation": "stron"})
