import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from derm_ray.bundle import Bundle, load_bundle
from derm_ray.data.patient import PatientEncoder
from derm_ray.domain import Modality
from derm_ray.errors import BundleError, OutputExistsError, StorageError
from derm_ray.inference.engines.engine_store import load_engine, store_engine, stored_engines
from derm_ray.inference.engines.openvino import NAME
from derm_ray.inference.engines.pytorch import TorchEngine
from derm_ray.inference.engines.quantization import quantize
from derm_ray.inference.engines.selection import make_engine, resolve_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import CamConfig, NetworkConfig
from derm_ray.storage import digest
from tests.conftest import seal_untrained

CPU = torch.device("cpu")
NETWORKS = {
    "triple": NetworkConfig("triple", "tiny", "cam_bp", 15, cam=CamConfig("tiny", 15)),
    "sole": NetworkConfig("sole", "tiny", "cam_bp", 15, cam=CamConfig("tiny", 15, networks=2)),
    "share": NetworkConfig("share", "tiny", "gap", 15),
}


def images(count: int, seed: int = 0) -> dict[Modality, np.ndarray]:
    """Smooth random images: plain noise has no range worth calibrating."""
    coarse = np.random.default_rng(seed).integers(0, 256, (2, count, 6, 6, 3), np.uint8)
    return dict(zip(Modality, coarse.repeat(8, axis=2).repeat(8, axis=3), strict=True))


@pytest.fixture(scope="module", params=NETWORKS)
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    uri = seal_untrained(str(tmp_path_factory.mktemp("int8") / request.param), NETWORKS[request.param])
    bundle = load_bundle(uri)
    files, built_with = quantize(bundle, images(12))
    store_engine(bundle, NAME, files, {"passed": True}, built_with)
    return bundle


def test_int8_answers_nearly_as_fp32_for_both_or_either_image(quantized: Bundle) -> None:
    exact, rounded = TorchEngine(quantized, "fp32", CPU), make_engine(quantized, NAME, CPU)
    clinical, dermoscopy = images(7, seed=1).values()
    for given in ((clinical, dermoscopy), (clinical, None), (None, dermoscopy)):
        expected, found = exact.run(*given), rounded.run(*given)
        assert expected.keys() == found.keys()
        for kind, probabilities in expected.items():
            assert found[kind].shape == probabilities.shape
            assert np.abs(found[kind] - probabilities).mean() < 0.02
    both = exact.run(clinical, dermoscopy)
    largest = max(np.abs(both[kind] - p).max() for kind, p in rounded.run(clinical, dermoscopy).items())
    assert largest > 0, "nothing was rounded"


def test_patient_data_is_a_part_of_its_own_that_is_not_rounded(patient_encoder: PatientEncoder, tmp_path: Path) -> None:
    config = NetworkConfig("share", "tiny", "gap", 15, patient=patient_encoder.width)
    bundle = load_bundle(seal_untrained(str(tmp_path / "b"), config, patient=patient_encoder))
    files, built_with = quantize(bundle, images(12))
    store_engine(bundle, NAME, files, {"passed": True}, built_with)
    exact, rounded = TorchEngine(bundle, "fp32", CPU), make_engine(bundle, NAME, CPU)
    clinical, dermoscopy = images(3, seed=1).values()
    vectors = patient_encoder.encode([{"age": 90.0, "sex": "female"}, {}, {"site": "trunk"}])
    terms = []
    for engine in (exact, rounded):
        with_it, without = engine.run(clinical, dermoscopy, vectors), engine.run(clinical, dermoscopy)
        kinds = {kind: np.log(with_it[kind]) - np.log(without[kind]) for kind in list(with_it)[:2]}
        terms.append({kind: term - term.mean(1, keepdims=True) for kind, term in kinds.items()})
    for kind, term in terms[0].items():
        assert np.abs(term[0]).max() > 0.1
        assert np.allclose(term[1], 0, atol=1e-4)
        assert np.allclose(term, terms[1][kind], atol=1e-3)


def test_only_convolutions_are_rounded(quantized: Bundle) -> None:
    """The Gram matrix, the square root, the norms, the classifiers and a CAM network's class maps stay fp32."""
    rounded, exact = set(), set()
    for name, data in load_engine(quantized, NAME).files.items():
        if not name.endswith(".xml"):
            continue
        tree = ElementTree.fromstring(data)  # noqa: S314
        layers = {layer.get("id"): layer for layer in tree.iter("layer")}
        sources: dict[str | None, list[str | None]] = {}
        for edge in tree.iter("edge"):
            sources.setdefault(edge.get("to-layer"), []).append(edge.get("from-layer"))
        for number, layer in layers.items():
            kinds = {layers[source].get("type") for source in sources.get(number, [])}
            (rounded if "FakeQuantize" in kinds else exact).add(layer.get("type"))
    assert "Convolution" in rounded
    assert rounded <= {"Convolution", "MaxPool", "Concat", "Result"}
    assert "MatMul" in exact


def test_an_engine_does_not_change_the_model(quantized: Bundle) -> None:
    assert load_bundle(quantized.uri).model_digest == quantized.model_digest
    assert stored_engines(quantized) == [NAME]
    name = resolve_engine(quantized, NAME, CPU)
    assert re.fullmatch(rf"{NAME}@[0-9a-f]{{16}}", name)
    assert resolve_engine(quantized, name, CPU) == name == Predictor(quantized, name, device=CPU).engine.name
    with pytest.raises(BundleError, match="this run started with"):
        resolve_engine(quantized, f"{NAME}@{'0' * 16}", CPU)


def test_an_engine_that_is_there_is_kept(quantized: Bundle) -> None:
    with pytest.raises(OutputExistsError, match="--overwrite"):
        store_engine(quantized, NAME, {}, {}, {})


@pytest.mark.parametrize("what", ["weights", "index", "model"])
def test_altered_engines_are_refused(tmp_path: Path, what: str) -> None:
    bundle = load_bundle(seal_untrained(str(tmp_path / "bundle"), NetworkConfig(trunk="tiny")))
    store_engine(bundle, NAME, {"both.xml": b"<net/>", "both.bin": b"1234"}, {"passed": True}, {})
    folder = tmp_path / "bundle" / "engines" / NAME
    if what == "weights":
        next(folder.glob("*-both.bin")).write_bytes(b"1235")
    elif what == "index":
        index = json.loads((folder / "engine.json").read_text())
        index["parity"]["passed"] = 1
        (folder / "engine.json").write_text(json.dumps(index))
    else:
        other = load_bundle(seal_untrained(str(tmp_path / "other"), NetworkConfig(trunk="tiny"), seed=1))
        (tmp_path / "bundle" / "engines").rename(tmp_path / "other" / "engines")
        bundle = other
    with pytest.raises(BundleError, match="another model" if what == "model" else "modified"):
        load_engine(bundle, NAME)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "cannot be read by the installed OpenVINO"),
        ({"files": None}, "modified"),
        ({"files": {"../../both.xml": "0"}}, "outside of its folder"),
        ({"files": {"both.xml": "0" * 64}}, "cannot be read"),
    ],
)
def test_what_is_no_engine_is_one_message(tmp_path: Path, change: dict[str, object], message: str) -> None:
    bundle = load_bundle(seal_untrained(str(tmp_path / "bundle"), NetworkConfig(trunk="tiny")))
    store_engine(bundle, NAME, {"both.xml": b"<net/>", "both.bin": b"1234"}, {}, {})
    place = tmp_path / "bundle" / "engines" / NAME / "engine.json"
    index = {key: value for key, value in {**json.loads(place.read_text()), **change}.items() if value is not None}
    del index["digest"]
    place.write_text(json.dumps({**index, "digest": digest(index)}))
    with pytest.raises(BundleError, match=message):
        make_engine(bundle, NAME, CPU)


def test_an_engine_stays_until_another_one_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(seal_untrained(str(tmp_path / "bundle"), NetworkConfig(trunk="tiny")))
    first, second = ({"both.xml": text, "both.bin": b"1234"} for text in (b"<one/>", b"<two/>"))
    store_engine(bundle, NAME, first, {}, {})

    def full(uri: str, value: object) -> None:
        raise StorageError("No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("derm_ray.storage.write_json", full)
        with pytest.raises(StorageError):
            store_engine(bundle, NAME, second, {}, {}, overwrite=True)
    assert load_engine(bundle, NAME).files == first
    store_engine(bundle, NAME, second, {}, {}, overwrite=True)
    assert load_engine(bundle, NAME).files == second
    assert len(list((tmp_path / "bundle" / "engines" / NAME).iterdir())) == 3


def test_using_it_tells_nobody() -> None:
    program = (
        "import sys; from derm_ray.inference.engines.openvino import require; require('openvino'); require('nncf')\n"
        "from openvino.tools.ovc import telemetry; print(sys.modules.get('openvino_telemetry'), type(telemetry).__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "openvino.tools.ovc.telemetry_stub"]
