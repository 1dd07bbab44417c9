"""Bundles that use patient data, through every engine and the predictor."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.patient import CategoryField, PatientEncoder
from derm_ray.data.preprocessing import PairPixels
from derm_ray.domain import PredictionKind
from derm_ray.errors import BundleError
from derm_ray.inference.engines.pytorch import CompiledEngine
from derm_ray.inference.engines.selection import make_engine, resolve_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import NetworkConfig
from tests.conftest import seal_untrained

CPU = torch.device("cpu")


def lesions() -> list[PairPixels]:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3), np.uint8)
    patients = ({"age": 80.0, "sex": "female"}, {"age": 80.0}, {}, {"site": "trunk", "camera": 1.0}, {"site": "toe"})
    both = [PairPixels(*images, patient=patient) for patient in patients]
    return [*both, PairPixels(images[0], None, patient=patients[0]), PairPixels(images[0], None)]


def test_what_is_given_changes_the_answer_and_what_is_missing_or_unknown_does_not(patient_bundle_uri: str) -> None:
    bundle = load_bundle(patient_bundle_uri)
    full, age, none, site, unknown, alone, alone_none = Predictor(bundle, "torch").predict(lesions())
    assert len({one.probabilities for one in (full, age, none, site)}) == 4
    assert np.allclose(unknown.probabilities, none.probabilities, atol=1e-6)
    assert alone.probabilities != alone_none.probabilities
    engine = make_engine(bundle, "torch", CPU)
    stacked = [np.stack([image] * 5) for image in (lesions()[0].clinical, lesions()[0].dermoscopy)]
    silent = engine.run(stacked[0], stacked[1])
    assert np.allclose(silent[PredictionKind.CROSS][0], none.probabilities, atol=1e-6)


def test_engines_pass_it_on_and_stay_close(patient_bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(patient_bundle_uri)
    exact = np.array([one.probabilities for one in Predictor(bundle, "torch", batch_size=2).predict(lesions())])
    rounded = np.array([one.probabilities for one in Predictor(bundle, "torch-bf16").predict(lesions())])
    assert 0 < np.abs(exact - rounded).max() < 2e-2
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    compiled = CompiledEngine(bundle, "fp32", CPU)
    compiled._pairs = 4
    filled = np.array([one.probabilities for one in Predictor(bundle, compiled).predict(lesions())])
    assert np.allclose(exact, filled, atol=1e-6)
    assert resolve_engine(bundle, "auto", CPU) in ("torch", "torch-bf16")


def test_the_encoding_is_part_of_the_model(
    patient_encoder: PatientEncoder, patient_bundle_uri: str, tmp_path: Path
) -> None:
    bundle = load_bundle(patient_bundle_uri)
    assert bundle.patient == patient_encoder
    card = Path(patient_bundle_uri, "README.md").read_text()
    assert "- Patient data, all of it optional: age: a number from 0 to 120; sex: one of female, male; site:" in card
    site = CategoryField("site", ("trunk", "head_neck_face"))  # the same width and weights, another meaning
    other = replace(patient_encoder, fields=(*patient_encoder.fields[:2], site))
    config = NetworkConfig(trunk="tiny", patient=other.width)
    assert load_bundle(seal_untrained(str(tmp_path / "b"), config, patient=other)).model_digest != bundle.model_digest
    index = json.loads(Path(patient_bundle_uri, "bundle.json").read_text())
    index["patient"]["fields"][0]["mean"] = 51
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(index))
    with pytest.raises(BundleError, match="was modified"):
        load_bundle(str(tmp_path / "b"))
