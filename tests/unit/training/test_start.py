import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from derm_ray.bundle import save_bundle
from derm_ray.cli import app
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15
from derm_ray.errors import ConfigError
from derm_ray.models.heads import HEADS, GapHead
from derm_ray.models.trunks import TRUNKS, Layer, TrunkSpec
from derm_ray.training.config import TrainConfig, make_config
from derm_ray.training.start import make_start


class MaxHead(GapHead):
    """Global maximum pooling."""

    def forward(self, features: torch.Tensor, _map: torch.Tensor | None = None) -> torch.Tensor:
        return torch.as_tensor(self.classifier(self.norm(features.float().amax(dim=(2, 3)))))


def answer(config: TrainConfig, photo: str, folder: Path) -> dict[str, float]:
    """Save a bundle of a recipe's untrained network, and score a photo with it on the command line."""
    start = make_start(config, None, None)
    parts = {"preprocessing": config.preprocessing, "weights": start.network.state_dict(), "provenance": {}}
    save_bundle(str(folder), network=start.architecture, label_set=PAPER15, **parts)
    arguments = ["score-one", "--model", str(folder), "--clinical", photo, "--engine", "torch", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    found: dict[str, float] = json.loads(done.stdout)["probabilities"]
    return found


def test_a_registered_trunk_and_its_normalization_answer(
    registered: Callable[..., None], pairs: Manifest, tmp_path: Path
) -> None:
    def spec(mean: float) -> TrunkSpec:
        make = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())  # noqa: E731
        return TrunkSpec(make, 8, {"relu1": Layer(2, 8)}, {"conv1": 2}, mean=(mean,) * 3, std=(0.5,) * 3)

    registered(TRUNKS, "small", spec(0.5))
    registered(TRUNKS, "dark", spec(-3.0))
    photo = str(pairs.absolute().pairs()[0].clinical_uri)
    small, dark = (
        answer(make_config("debug", {"trunk": name, "freeze": "conv1"}), photo, tmp_path / name)
        for name in ("small", "dark")
    )
    assert sum(small.values()) == pytest.approx(1, abs=1e-4)
    assert small != dark
    with pytest.raises(ConfigError, match=r"trunk 'smal'.*'small'.*Known: .*, tiny, small, dark, timm/NAME"):
        make_config("debug", {"trunk": "smal"})
    with pytest.raises(ConfigError, match="unknown freeze of trunk small 'pool4'"):
        make_start(make_config("debug", {"trunk": "small", "freeze": "pool4"}), None, None)


def test_a_registered_head_answers(registered: Callable[..., None], pairs: Manifest, tmp_path: Path) -> None:
    registered(HEADS, "max", MaxHead)
    photo = str(pairs.absolute().pairs()[0].clinical_uri)
    config = make_config("debug", {"head": "max"})
    assert answer(config, photo, tmp_path / "max") != answer(make_config("debug"), photo, tmp_path / "gap")
    with pytest.raises(ConfigError, match=r"rank 4 applies to bilinear heads only\. Remove it for head max"):
        make_start(make_config("debug", {"head": "max", "rank": 4}), None, None)
