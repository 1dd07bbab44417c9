from dataclasses import replace

import numpy as np
import pytest
import torch

from derm_ray.bundle import load_bundle, save_bundle
from derm_ray.data.preprocessing import PairPixels, Preprocessing
from derm_ray.domain import PAPER15, PredictionKind
from derm_ray.inference.engines.selection import make_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import NetworkConfig, build_network
from derm_ray.models.views import TTA, views

CONFIG = NetworkConfig("triple", "tiny", "gap", 15)
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32, 3), dtype=np.uint8)


def state(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    network = build_network(CONFIG)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight)
    return network.state_dict()


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle of two networks that sees four views."""
    folder = str(tmp_path_factory.mktemp("ensemble"))
    weights = {f"{n}.{key}": value for n in range(2) for key, value in state(n).items()}
    parts = {"label_set": PAPER15, "preprocessing": Preprocessing(32), "provenance": {}}
    save_bundle(folder, network=CONFIG, weights=weights, members=2, tta="flips", **parts)  # type: ignore[arg-type]
    return folder


def test_the_views_are_the_symmetries_of_the_square() -> None:
    for policy, number in TTA.items():
        found = views(IMAGES[0], policy)
        assert len({view.tobytes() for view in found}) == len(found) == number
        assert np.array_equal(found[0], IMAGES[0])
    around = {np.rot90(image, turn).tobytes() for turn in range(4) for image in (IMAGES[0, 0], IMAGES[0, 0, :, ::-1])}
    assert {view[0].tobytes() for view in views(IMAGES[0], "turns")} == around


@pytest.mark.parametrize("given", [(0, 1), (0, None), (None, 1)])
def test_an_ensemble_answers_with_the_mean_of_its_networks_and_views(uri: str, given: tuple[int | None, ...]) -> None:
    bundle = load_bundle(uri)
    assert (bundle.members, bundle.tta, bundle.passes) == (2, "flips", 8)
    images = [None if place is None else IMAGES[place] for place in given]
    expected: dict[PredictionKind, list[np.ndarray]] = {}
    for number in range(2):
        network = build_network(CONFIG).eval()
        network.load_state_dict(state(number))
        for up in (1, -1):
            for left in (1, -1):
                view = [None if i is None else torch.from_numpy(i[:, ::up, ::left].copy()) for i in images]
                with torch.inference_mode():
                    logits = network(*(None if i is None else i.permute(0, 3, 1, 2) for i in view))
                for kind, p in logits.probabilities().items():
                    expected.setdefault(kind, []).append(p.numpy())
    found = make_engine(bundle, "torch").run(*images)
    assert found.keys() == expected.keys()
    for kind, answers in expected.items():
        assert len(answers) == 8
        assert np.abs(answers[0] - answers[-1]).max() > 0.01
        assert found[kind] == pytest.approx(np.mean(answers, 0), abs=1e-5)


def test_the_predictor_averages_as_well_and_the_card_tells_the_cost(uri: str) -> None:
    bundle = load_bundle(uri)
    pixels = [PairPixels(*pair) for pair in zip(*IMAGES, strict=True)]
    found = [one.probabilities for one in Predictor(bundle, "torch").predict(pixels)]
    alone = [Predictor(bundle.member(n), "torch").predict(pixels) for n in range(2)]
    assert found == pytest.approx(make_engine(bundle, "torch").run(*IMAGES)[PredictionKind.CROSS], abs=1e-6)
    assert not np.allclose(found, [one.probabilities for one in alone[0]], atol=1e-3)
    card = (bundle.uri + "/README.md").replace("file://", "")
    with open(card, encoding="utf-8") as file:
        assert "Forward passes per image: 8; networks 2, views flips" in file.read()


def test_members_and_views_are_part_of_the_digest(uri: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = load_bundle(uri)
    parts = {"label_set": PAPER15, "preprocessing": Preprocessing(32), "provenance": {}, "weights": bundle.weights}
    found = {
        save_bundle(str(tmp_path_factory.mktemp("b")), network=CONFIG, members=members, tta=tta, **parts)  # type: ignore[arg-type]
        for members, tta in ((2, "flips"), (2, "none"), (1, "flips"))
    }
    assert len(found) == 3
    assert bundle.model_digest in found
    assert replace(bundle, tta="none").passes == 2
