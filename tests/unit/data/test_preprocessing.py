from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from derm_ray.data.archives.reader import ImageReader
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels, Preprocessing, load_image, load_pairs, pixels_from_bytes
from derm_ray.domain import LesionPair
from derm_ray.errors import BundleError, ImageError, ImageErrorCode
from derm_ray.storage import read_bytes


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
    assert loaded.flags == direct.flags == ()


def test_flags_name_their_modality_and_times_add_up(pairs: Manifest, tmp_path: Path) -> None:
    still, moving = pairs.pairs()[0].clinical_uri, str(tmp_path / "moving.gif")
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    pair, spec = LesionPair("a", "a", still, moving), Preprocessing(32)
    with ThreadPoolExecutor(2) as executor, ImageReader() as reader:
        (loaded,) = load_pairs([pair], spec, executor, reader=reader)
        alone = load_image(moving, spec, reader)
    assert isinstance(loaded, PairPixels)
    assert loaded.flags == ("dermoscopy:animated",)
    assert alone.flags == ("animated",)
    assert np.array_equal(alone.pixels, loaded.dermoscopy)
    assert min(loaded.read_s, loaded.decode_s, alone.read_s, alone.decode_s) > 0
    online = pixels_from_bytes(read_bytes(moving), read_bytes(moving), spec)
    assert online.flags == ("clinical:animated", "dermoscopy:animated")


def test_an_error_names_the_uri_or_the_modality(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"hello")
    spec = Preprocessing(32)
    with ThreadPoolExecutor(1) as executor:
        (error,) = load_pairs([LesionPair("a", "a", None, str(bad))], spec, executor)
    assert isinstance(error, ImageError)
    assert error.code is ImageErrorCode.NOT_AN_IMAGE
    assert str(error) == (
        f"{bad}: not an image in a known format (JPEG, PNG, WEBP, TIFF, BMP, GIF, JPEG 2000, DICOM). Export the image "
        "as 8-bit PNG or JPEG"
    )
    with pytest.raises(ImageError, match=r"^dermoscopy image: not an image"):
        pixels_from_bytes(None, b"hello", spec)


def test_one_bad_image_spares_its_neighbors(pairs: Manifest) -> None:
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
    with pytest.raises(BundleError, match=r"unknown preprocessing .*'crop'"):
        Preprocessing.from_json(spec.to_json() | {"resize": "crop"})
