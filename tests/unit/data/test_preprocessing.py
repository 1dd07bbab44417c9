from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_pairs, pixels_from_bytes
from derm_ray.errors import BundleError, ImageError, ImageErrorCode
from derm_ray.storage import read_bytes
from derm_ray.vocabulary import LesionPair


def test_loading_equals_decoding_the_same_bytes(pairs: Manifest) -> None:
    pair, spec = pairs.pairs()[0], Preprocessing(48)
    with ThreadPoolExecutor(2) as executor:
        (loaded,) = load_pairs([pair], spec, executor)
    assert isinstance(loaded, PairPixels)
    direct = pixels_from_bytes(read_bytes(str(pair.clinical_uri)), read_bytes(str(pair.dermoscopy_uri)), spec)
    assert loaded.clinical is not None
    assert loaded.clinical.shape == (48, 48, 3)
    assert loaded.clinical.dtype == np.uint8
    assert np.array_equal(loaded.clinical, direct.clinical)
    assert np.array_equal(loaded.dermoscopy, direct.dermoscopy)


def test_one_bad_image_spares_its_neighbours(pairs: Manifest) -> None:
    good = pairs.pairs()[0]
    bad = LesionPair("bad", "bad", "/nowhere/x.jpg", good.dermoscopy_uri)
    alone = LesionPair("alone", "alone", None, good.dermoscopy_uri)
    with ThreadPoolExecutor(2) as executor:
        first, second, third = load_pairs([good, bad, alone], Preprocessing(32), executor)
    assert isinstance(first, PairPixels)
    assert isinstance(second, ImageError)
    assert second.code is ImageErrorCode.MISSING
    assert isinstance(third, PairPixels)
    assert third.modality == "dermoscopy"


def test_the_spec_survives_json_and_refuses_what_it_does_not_know() -> None:
    spec = Preprocessing(96)
    assert Preprocessing.from_json(spec.to_json()) == spec
    with pytest.raises(BundleError, match="resize 'crop'"):
        Preprocessing.from_json(spec.to_json() | {"resize": "crop"})
