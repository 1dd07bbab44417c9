from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, PredictionKind
from derm_ray.errors import ConfigError, ManifestError, OutputExistsError, WorkError
from derm_ray.evaluation import parity
from derm_ray.evaluation.parity import measure_parity
from derm_ray.evaluation.quantization import quantize_bundle
from derm_ray.inference.engines.engine import Images, Probabilities
from derm_ray.inference.engines.engine_store import load_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import NetworkConfig
from tests.conftest import seal_untrained, take

MELANOMA, NAEVUS = PAPER15.class_names.index("melanoma"), PAPER15.class_names.index("dermal_naevus")


class Sure:
    """Says melanoma with a given probability, and another one for the first pairs."""

    name = "sure"

    def __init__(self, first: list[float], then: float) -> None:
        self._first, self._then = first, then

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        assert clinical is not None
        assert dermoscopy is not None
        rows = np.zeros((len(clinical), 15), np.float32)
        for row in rows:
            row[MELANOMA] = self._first.pop(0) if self._first else self._then
            row[NAEVUS] = 1 - row[MELANOMA]
        return dict.fromkeys(PredictionKind, rows)


def test_parity_counts_answers_that_move(bundle_uri: str, pairs: Manifest) -> None:
    bundle = load_bundle(bundle_uri)
    some = [pair for pair in pairs.pairs() if pair.diagnosis == "melanoma"][:10]
    assert len(some) == 10
    found = measure_parity(Predictor(bundle, Sure([], 0.9)), Predictor(bundle, Sure([0.4], 0.8)), some, pairs.uri)
    assert (found.pairs, found.positives, found.task) == (10, 10, "cancer")
    cross = found.kinds[PredictionKind.CROSS]
    assert cross.agreement == 0.9
    assert cross.mean_difference == pytest.approx((2 * 0.5 + 9 * 2 * 0.1) / 150, abs=1e-6)
    assert cross.largest_difference == pytest.approx(0.5)
    assert [found.sensitivity[name].value for name in ("reference", "candidate")] == [1.0, 0.9]
    assert found.sensitivity["difference"].value == pytest.approx(-0.1)
    assert found.sensitivity["difference"].low < -0.1 < found.sensitivity["difference"].high <= 0
    assert not found.passed
    assert "difference -0.1000" in found.lines()[-1]
    same = measure_parity(Predictor(bundle, Sure([], 0.9)), Predictor(bundle, Sure([], 0.9)), some, pairs.uri)
    assert same.passed
    assert same.sensitivity["difference"].value == 0


@pytest.fixture
def small(pairs: Manifest) -> Manifest:
    return take(pairs, 60).absolute()


def test_a_bundle_is_quantized_on_val_and_compared_on_the_rest(small: Manifest, tmp_path: Path) -> None:
    uri = seal_untrained(str(tmp_path / "bundle"), NetworkConfig("triple", "tiny", "bp"))
    made = quantize_bundle(uri, small)
    in_val = small.column("split").count("val")
    assert (made.calibrated_on, made.parity.pairs) == (in_val, 60 - in_val)
    report = load_engine(load_bundle(uri), "openvino-int8").parity
    assert report == {"calibrated_on": in_val, **made.parity.to_json()}
    assert report["passed"]
    with pytest.raises(OutputExistsError, match="--overwrite"):
        quantize_bundle(uri, small)
    assert quantize_bundle(uri, small, max_pairs=5, overwrite=True).parity.pairs == 5


def test_an_engine_that_answers_otherwise_is_refused(
    small: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = seal_untrained(str(tmp_path / "bundle"), NetworkConfig("share", "tiny", "gap"))
    monkeypatch.setattr(parity, "MAX_DIFFERENCE", 0.0)
    with pytest.raises(WorkError, match=r"Nothing was written\.\nclinical"):
        quantize_bundle(uri, small)
    assert not (tmp_path / "bundle" / "engines").exists()


def test_there_must_be_pairs_to_calibrate_and_to_compare_on(small: Manifest, bundle_uri: str) -> None:
    with pytest.raises(ConfigError, match="val"):
        quantize_bundle(bundle_uri, small.with_column("split", ["train"] * 60))
    with pytest.raises(ManifestError, match="outside of val"):
        quantize_bundle(bundle_uri, small.with_column("split", ["val"] * 60))
