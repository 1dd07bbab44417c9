from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derm_ray.audit.fingerprint import CROPS, Fingerprints, fingerprint, perceptual_hashes, skin_share
from derm_ray.audit.matching import Candidates, joined, nearest
from derm_ray.audit.similarity import SIDE, similarities, similarity, thumbnail
from derm_ray.audit.thresholds import HASH_DISTANCE, NEIGHBORS, SIMILARITY
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import Preprocessing, image_from_bytes
from derm_ray.domain import Modality
from tests.duplicates import CHANGES


@pytest.fixture(scope="module")
def given(pairs: Manifest) -> list[str]:
    return [uri for pair in pairs.pairs()[:40] for modality in Modality if (uri := pair.uri(modality)) is not None]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_similar_to_its_original_and_to_no_other(given: list[str], change: str) -> None:
    images = [image_from_bytes(Modality.CLINICAL, _bytes(uri), Preprocessing()).pixels for uri in given[:8]]
    for number, uri in enumerate(given[:8]):
        with Image.open(uri) as image:
            copy = thumbnail(
                image_from_bytes(Modality.CLINICAL, CHANGES[change](image.convert("RGB")), Preprocessing()).pixels
            )
        values = [similarity(copy, thumbnail(other)) for other in images]
        assert values[number] >= SIMILARITY
        assert max(value for other, value in enumerate(values) if other != number) < SIMILARITY


def _bytes(uri: str) -> bytes:
    return Path(uri).read_bytes()


def test_an_image_without_details_is_similar_to_nothing() -> None:
    plain = np.full((SIDE, SIDE), 128, np.float32)
    assert similarity(plain, plain) == 0.0


def test_an_image_that_is_gone_is_similar_to_nothing(given: list[str]) -> None:
    found = similarities([(given[0], given[0]), (given[0], given[0] + ".gone")])
    assert found[0] == pytest.approx(1)
    assert found[1] == -1


def _random_hashes(count: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).integers(0, 256, (count, len(CROPS), 32), dtype=np.uint8)


def test_neighbors_are_those_of_a_plain_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and parts do not matter, and a pair that both images find comes once, with its smaller distance."""
    monkeypatch.setattr("derm_ray.audit.matching.BLOCK", 30)
    hashes = _random_hashes(80)
    hashes[70, 3] = hashes[10, 0]
    hashes[70, 3, 0] ^= 7  # 3 bits
    hashes[41, 0] = hashes[40, 0]
    found = joined([nearest(hashes, start, start + 20) for start in range(0, 80, 20)])
    assert list(zip(found.first, found.second, found.distances, strict=True)) == [(10, 70, 3), (40, 41, 0)]
    assert isinstance(joined([]), Candidates)


def test_of_many_equal_images_each_has_few_neighbors_and_all_hang_together() -> None:
    hashes = np.repeat(_random_hashes(1), 50, 0)
    found = joined([nearest(hashes, 0, 50)])
    assert len(found.first) <= 50 * NEIGHBORS
    assert (found.distances <= HASH_DISTANCE).all()
    seen = {0}
    for first, second in sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)):
        seen |= {first, second} if seen & {first, second} else set()
    assert seen == set(range(50))


def test_images_that_cannot_be_used_are_errors_of_their_own(given: list[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(_bytes(given[0])[:300])
    found = fingerprint([given[0], str(broken), str(tmp_path / "absent.jpg"), given[1]])
    assert {index: code for index, (code, _) in found.errors.items()} == {1: "corrupt", 2: "missing"}
    assert found.digests[1].any()
    assert not found.digests[2].any()
    assert np.isnan(found.measures[1:3]).all()
    assert not np.isnan(found.measures[[0, 3]]).any()
    whole = Fingerprints.empty(6)
    whole.put(2, found)
    assert set(whole.errors) == {3, 4}
    assert (whole.hashes[2] == found.hashes[0]).all()


def test_skin_has_the_color_of_skin_and_paper_and_sky_have_not(given: list[str]) -> None:
    def plain(*color: int) -> float:
        return skin_share(np.full((16, 16, 3), color, np.uint8))

    assert plain(236, 198, 178) == plain(90, 60, 45) == 1
    assert plain(255, 255, 255) == plain(0, 0, 0) == plain(90, 140, 230) == 0
    with Image.open(given[0]) as image:
        assert skin_share(np.asarray(image.convert("RGB"))) > 0.5


def test_hashes_of_an_image_are_of_256_bits_each(given: list[str]) -> None:
    hashes = perceptual_hashes(image_from_bytes(Modality.CLINICAL, _bytes(given[0]), Preprocessing()).pixels)
    assert hashes.shape == (len(CROPS), 32)
    assert hashes.dtype == np.uint8
