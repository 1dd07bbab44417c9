import json
import shutil
from pathlib import Path

import pytest
import torch

from derm_ray.bundle import load_bundle, save_bundle
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.data.reference import Distribution, Quantity
from derm_ray.domain import PAPER15, Calibration, OperatingPoint, PredictionKind
from derm_ray.errors import BundleError, OutputExistsError
from derm_ray.models.factory import NetworkConfig, build_network


@pytest.fixture
def copy(bundle_uri: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_uri, tmp_path / "copy"))


def test_a_bundle_comes_back_as_it_was_sealed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = NetworkConfig(trunk="tiny")
    expected = build_network(network).state_dict()
    parts = {"label_set": PAPER15, "preprocessing": Preprocessing(48), "weights": expected, "provenance": {"a": [1]}}
    sealed = save_bundle(str(tmp_path / "b"), network=network, **parts)  # type: ignore[arg-type]
    bundle = load_bundle(str(tmp_path / "b"))
    assert (bundle.model_digest, bundle.uri) == (sealed, str(tmp_path / "b"))
    assert bundle.label_set is PAPER15
    assert bundle.preprocessing == Preprocessing(48)
    assert bundle.network == network
    assert bundle.provenance == {"a": [1]}
    found = bundle.build().state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("name", ["weights.safetensors", "bundle.json", "README.md"])
def test_a_changed_byte_is_refused_by_name(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    position = data.index(b'"size": 48') + 8 if name == "bundle.json" else len(data) // 2
    data[position] = data[position] ^ 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was modified"):
        load_bundle(str(copy))


def test_missing_files_and_foreign_formats_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"contains no bundle \(no bundle\.json\)\. Give the folder `bundle`"):
        load_bundle(str(tmp_path))
    run = tmp_path / "run"
    with pytest.raises(BundleError, match=r"run/bundle does not exist\. .* or was stopped, let it finish first"):
        load_bundle(str(run / "bundle"))
    shutil.copytree(copy, run / "bundle")
    with pytest.raises(BundleError, match=r"run contains no bundle .* Did you mean .*/run/bundle\?"):
        load_bundle(str(run))
    index = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(index | {"format_version": 99}))
    with pytest.raises(BundleError, match="bundle format 99 is not supported"):
        load_bundle(str(copy))
    (copy / "bundle.json").write_text(json.dumps(index))
    (copy / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors cannot be read"):
        load_bundle(str(copy))


def test_the_model_digest_covers_the_model_and_nothing_else(bundle_uri: str, tmp_path: Path) -> None:
    bundle = load_bundle(bundle_uri)
    digests = {}
    for name, preprocessing, provenance in (
        ("same", bundle.preprocessing, {"note": 1}),
        ("size", Preprocessing(64), {}),
    ):
        digests[name] = save_bundle(
            str(tmp_path / name),
            network=bundle.network,
            label_set=bundle.label_set,
            preprocessing=preprocessing,
            weights=bundle.weights,
            provenance=provenance,
        )
    assert digests["same"] == bundle.model_digest
    assert digests["size"] != bundle.model_digest
    with pytest.raises(OutputExistsError, match="already contains a bundle"):
        save_bundle(
            str(tmp_path / "same"),
            network=bundle.network,
            label_set=bundle.label_set,
            preprocessing=bundle.preprocessing,
            weights=bundle.weights,
            provenance={},
        )


def test_the_card_names_digest_and_limits(bundle_uri: str) -> None:
    card = (Path(bundle_uri) / "README.md").read_text()
    assert load_bundle(bundle_uri).model_digest in card
    assert "not a medical device" in card
    assert "cross/accuracy: 0.5" in card


def test_the_calibration_is_sealed_and_part_of_the_model(bundle_uri: str, tmp_path: Path) -> None:
    plain = load_bundle(bundle_uri)
    point = OperatingPoint(PredictionKind.CROSS, "melanoma", 0.9, 0.25, 0.93, 0.7)
    calibration = Calibration({PredictionKind.CROSS: 1.5}, (point,))
    sealed = save_bundle(
        str(tmp_path / "calibrated"),
        network=plain.network,
        label_set=plain.label_set,
        preprocessing=plain.preprocessing,
        weights=plain.weights,
        provenance={},
        calibration=calibration,
    )
    assert load_bundle(str(tmp_path / "calibrated")).calibration == calibration
    assert sealed != plain.model_digest
    assert "| cross | melanoma | 90% | 0.2500 | 0.930 | 0.700 |" in (tmp_path / "calibrated" / "README.md").read_text()


def test_the_reference_is_sealed_and_no_part_of_the_model(bundle_uri: str, tmp_path: Path) -> None:
    plain = load_bundle(bundle_uri)
    reference = (
        Distribution(
            Quantity.BRIGHTNESS, "clinical", 200, ("1", "2", "3"), (600.0, 600.0000000000001), (0.25, 0.5, 0.25)
        ),
        Distribution(Quantity.DIAGNOSIS, "both", 200, ("melanoma", "other"), (), (0.1, 0.9)),
    )
    sealed = save_bundle(
        str(tmp_path / "watched"),
        network=plain.network,
        label_set=plain.label_set,
        preprocessing=plain.preprocessing,
        weights=plain.weights,
        provenance={},
        reference=reference,
    )
    assert load_bundle(str(tmp_path / "watched")).reference == reference
    assert sealed == plain.model_digest
