from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from derm_ray import storage
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_pairs
from derm_ray.domain import LesionPair, Modality
from derm_ray.errors import ConfigError, ImageError, StorageError
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network
from derm_ray.models.trunks import Trunk
from derm_ray.training import feature_cache
from derm_ray.training.augmentation import POLICIES, Augmentation
from derm_ray.training.config import debug
from derm_ray.training.feature_cache import GIB, FeatureCache, evict_caches
from derm_ray.training.run.cache import FeatureWriter, common_stem, plan_cache

SPEC = Preprocessing(32)


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    torch.manual_seed(0)
    return Trunk("tiny", freeze="pool2").eval()


def write(trunk: Trunk, pairs: list[LesionPair], folder: Path, precision: str = "fp32") -> FeatureCache:
    cache = plan_cache(str(folder), trunk, SPEC, precision, pairs, mirrored=True)
    writer = FeatureWriter(trunk, SPEC, precision, torch.device("cpu"))
    for index, start in enumerate(range(0, len(pairs), feature_cache.PAIRS_PER_FILE)):
        writer.write(cache, index, pairs[start : start + feature_cache.PAIRS_PER_FILE])
    return cache


def test_what_is_read_is_what_the_stem_computes(
    trunk: Trunk, pairs: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "PAIRS_PER_FILE", 4)
    few = pairs.pairs()[:10]
    cache = write(trunk, few, tmp_path)
    rows = np.array([9, 2, 4])
    chosen = [few[row] for row in rows]
    with ThreadPoolExecutor(2) as executor:
        loaded = [p for p in load_pairs(chosen, SPEC, executor) if isinstance(p, PairPixels)]
    for augmentation in (None, *(Augmentation(POLICIES["mirror"], 0, epoch) for epoch in (1, 2))):
        got = dict(zip(Modality, cache.read(chosen, rows, augmentation), strict=True))
        for place, (pair, pixels) in enumerate(zip(chosen, loaded, strict=True)):
            for modality, image in zip(Modality, (pixels.clinical, pixels.dermoscopy), strict=True):
                assert image is not None
                if augmentation is not None and augmentation.mirrors(pair, modality):
                    image = image[:, ::-1]
                batch = torch.from_numpy(image[None].copy())
                with torch.inference_mode():
                    expected = trunk.stem(batch.permute(0, 3, 1, 2))[0].permute(1, 2, 0)
                assert np.allclose(got[modality][place], expected.numpy(), atol=1e-5)


def test_bf16_is_kept_bit_by_bit(trunk: Trunk, pairs: Manifest, tmp_path: Path) -> None:
    few = pairs.pairs()[:3]
    exact, rounded = (write(trunk, few, tmp_path, precision) for precision in ("fp32", "bf16"))
    assert rounded.record_bytes * 2 == exact.record_bytes
    first = exact.read(few, np.arange(3), None)[0]
    second = torch.from_numpy(rounded.read(few, np.arange(3), None)[0]).view(torch.bfloat16).float().numpy()
    assert np.allclose(first, second, atol=0.05, rtol=0.05)


def test_a_file_that_was_cut_short_is_one_message(trunk: Trunk, pairs: Manifest, tmp_path: Path) -> None:
    few = pairs.pairs()[:3]
    cache = write(trunk, few, tmp_path)
    whole = Path(cache.file(0)).read_bytes()
    Path(cache.file(0)).write_bytes(whole[: cache.record_bytes])
    assert cache.read(few[:1], np.array([0]), None)[0].shape == (1, *cache.shape)
    with pytest.raises(StorageError, match=r"truncated\. Delete this folder"):
        cache.read(few[2:], np.array([2]), None)


def test_the_name_depends_on_all_that_decides_the_values(trunk: Trunk, pairs: Manifest, tmp_path: Path) -> None:
    few = pairs.pairs()[:3]

    def name(other: Trunk = trunk, spec: Preprocessing = SPEC, precision: str = "fp32", count: int = 3) -> str:
        return plan_cache(str(tmp_path), other, spec, precision, few[:count], mirrored=True).uri

    torch.manual_seed(1)
    names = [name(), name(Trunk("tiny", freeze="pool2")), name(spec=Preprocessing(48)), name(precision="bf16"), name(count=2)]  # fmt: skip
    assert len(set(names)) == 5
    assert name() == names[0]


def test_an_image_that_cannot_be_used_is_named(trunk: Trunk, pairs: Manifest, tmp_path: Path) -> None:
    pair = replace(pairs.pairs()[0], clinical_uri=str(tmp_path / "gone.jpg"))
    with pytest.raises(ImageError, match=f"pair {pair.pair_id}"):
        write(trunk, [pair], tmp_path)


def test_room_is_made_by_what_was_used_longest_ago(tmp_path: Path) -> None:
    def cache(name: str) -> FeatureCache:
        return FeatureCache(str(tmp_path / name), (8, 8, 512), "uint16", mirrored=True)

    half = int(0.4 * GIB) // cache("a").record_bytes
    for name in ("a", "b"):
        evict_caches(str(tmp_path), [(cache(name), half)], limit_gib=1.0)
        storage.write_bytes(cache(name).file(0), b"records")
    evict_caches(str(tmp_path), [(cache("a"), half)], limit_gib=1.0)
    evict_caches(str(tmp_path), [(cache("c"), half)], limit_gib=1.0)
    assert sorted(path.name for path in tmp_path.iterdir() if any(path.iterdir())) == ["a", "c"]
    with pytest.raises(ConfigError, match=r"the activations need .* GiB, the limit is 0.1 GiB"):
        evict_caches(str(tmp_path), [(cache("d"), half)], limit_gib=0.1)
    (tmp_path / "a" / "cache.json").unlink()
    evict_caches(str(tmp_path), [(cache("c"), half)], limit_gib=1.0)
    assert sorted(path.name for path in tmp_path.iterdir() if any(path.iterdir())) == ["c"]


def test_a_file_that_is_gone_is_one_message(pairs: Manifest, tmp_path: Path) -> None:
    cache = FeatureCache(str(tmp_path / "gone"), (8, 8, 512), "uint16", mirrored=True)
    with pytest.raises(StorageError, match="gone"):
        cache.read(pairs.pairs()[:1], np.zeros(1, np.int64), None)


def test_what_cannot_be_cached_is_refused_with_the_mend() -> None:
    config = replace(debug(), freeze="pool2")
    sole = build_network(NetworkConfig("sole", "tiny", "gap", 5), freeze="pool2")
    with pytest.raises(ConfigError, match="two trunks differ"):
        common_stem(config, sole)
    with pytest.raises(ConfigError, match="this recipe freezes none"):
        common_stem(debug(), sole)
    own = build_network(NetworkConfig("share", "tiny", "cam_bp", 5, cam=CamConfig("tiny", 5)), freeze="pool2")
    with pytest.raises(ConfigError, match="does not share the frozen layers"):
        common_stem(config, own)


def test_images_that_a_pair_lacks_are_neither_computed_nor_read(trunk: Trunk, pairs: Manifest, tmp_path: Path) -> None:
    few = pairs.pairs()[:4]
    single = [few[0], replace(few[1], clinical_uri=None), replace(few[2], dermoscopy_uri=None), few[3]]
    whole = write(trunk, few, tmp_path).read(few, np.arange(4), None)
    cache = write(trunk, single, tmp_path)
    assert cache.uri != write(trunk, few, tmp_path).uri
    for found, expected, absent in zip(cache.read(single, np.arange(4), None), whole, (1, 2), strict=True):
        assert not found[absent].any()
        kept = [row for row in range(4) if row != absent]
        assert np.allclose(found[kept], expected[kept], atol=1e-5)
    stored = np.frombuffer(Path(cache.file(0)).read_bytes(), cache.dtype).reshape(4, 2, 2, -1)
    assert [bool(images.any()) for images in stored[1].swapaxes(0, 1)] == [False, True]
    left_out = replace(few[3], clinical_uri=None)
    assert not cache.read([left_out], np.array([3]), None)[0].any()
