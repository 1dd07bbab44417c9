import numpy as np
import pytest
import torch

from derm_ray.bundle import load_bundle, save_bundle
from derm_ray.data.preprocessing import PairPixels, Preprocessing
from derm_ray.domain import PAPER15, Modality
from derm_ray.errors import ConfigError
from derm_ray.inference.saliency import SaliencyMapper, overlay
from derm_ray.models.factory import CamConfig, NetworkConfig, build_network


def model(folder: str, seed: int) -> str:
    torch.manual_seed(seed)
    config = NetworkConfig("triple", "tiny", "cam_bp", 15, cam=CamConfig("tiny", 15))
    weights = build_network(config).state_dict()
    save_bundle(
        folder, network=config, label_set=PAPER15, preprocessing=Preprocessing(32), weights=weights, provenance={}
    )
    return folder


def pixels() -> PairPixels:
    clinical, dermoscopy = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    return PairPixels(clinical, dermoscopy)


def test_maps_are_weights_of_each_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = load_bundle(model(str(tmp_path_factory.mktemp("saliency") / "m"), 0))
    mapper = SaliencyMapper(bundle)
    both, alone = mapper.maps(pixels()), mapper.maps(PairPixels(pixels().clinical, None))
    assert set(both) == set(Modality)
    assert set(alone) == {Modality.CLINICAL}
    for weights in both.values():
        assert weights.shape == (8, 8)
        assert weights.min() >= 0
        assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(alone[Modality.CLINICAL], both[Modality.CLINICAL], atol=1e-6)


def test_other_weights_give_another_map(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The sanity check of Adebayo et al. 2018: a map that ignores the weights explains nothing."""
    folder = tmp_path_factory.mktemp("saliency")
    first, again, other = (
        SaliencyMapper(load_bundle(uri)).maps(pixels())[Modality.DERMOSCOPY].ravel()
        for uri in (model(str(folder / "a"), 0), model(str(folder / "b"), 0), model(str(folder / "c"), 1))
    )
    assert np.array_equal(first, again)
    assert np.corrcoef(first, other)[0, 1] < 0.9
    assert np.abs(first - other).max() > 0.1 * first.max()


def test_a_model_without_a_cam_network_is_refused(bundle_uri: str) -> None:
    with pytest.raises(ConfigError, match="needs a model with head cam_bp"):
        SaliencyMapper(load_bundle(bundle_uri))


def test_the_overlay_colors_where_the_weights_are() -> None:
    image = np.full((64, 64, 3), 128, np.uint8)
    weights = np.zeros((8, 8), np.float32)
    weights[1, 1] = 1.0
    drawn = overlay(image, weights)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    changed = np.abs(drawn.astype(int) - 128).sum(2)
    assert changed[12, 12] > 60
    assert changed[40:, 40:].max() == 0
