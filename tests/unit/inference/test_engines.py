import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from derm_ray.bundle import Bundle, load_bundle
from derm_ray.cli import app
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PredictionKind
from derm_ray.errors import BundleError, ConfigError
from derm_ray.inference.engines import ENGINES, pytorch, selection
from derm_ray.inference.engines.engine import EngineKind, Images, Probabilities
from derm_ray.inference.engines.pytorch import CPU_PAIRS, CompiledEngine, TorchEngine
from derm_ray.inference.engines.selection import make_engine, resolve_engine
from derm_ray.inference.precision import resolve_precision

CPU = torch.device("cpu")


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    clinical, dermoscopy = np.random.default_rng(0).integers(0, 256, (2, count, 48, 48, 3), np.uint8)
    return clinical, dermoscopy


@pytest.fixture(autouse=True)
def no_choice_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_unknown_engines_are_refused(bundle_uri: str) -> None:
    bundle = load_bundle(bundle_uri)
    with pytest.raises(ConfigError, match="Did you mean 'torch'"):
        resolve_engine(bundle, "troch", CPU)
    with pytest.raises(ConfigError, match="unknown engine 'torch@0123'"):
        resolve_engine(bundle, "torch@0123", CPU)


def test_int8_is_refused_where_it_cannot_run(bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle(bundle_uri)
    with pytest.raises(BundleError, match="derm-ray model quantize"):
        resolve_engine(bundle, "openvino-int8", CPU)
    with pytest.raises(ConfigError, match="CPUs only"):
        resolve_engine(bundle, "openvino-int8", torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'derm-ray\[openvino\]'"):
        resolve_engine(bundle, "openvino-int8", CPU)


def test_auto_is_the_first_unless_another_is_clearly_faster(
    bundle_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("derm_ray"), "propagate", True)
    monkeypatch.setattr(pytorch, "hardware_has_bf16", lambda device: True)
    rates = {"torch": 3.0, "torch-bf16": 5.0}
    monkeypatch.setattr(selection, "_pairs_per_s", lambda engines, size: {one.name: rates[one.name] for one in engines})
    with caplog.at_level(logging.INFO):
        assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) == "torch-bf16"
    assert "engine torch-bf16 (pairs/s: torch 3, torch-bf16 5)" in caplog.text
    for rate in (8.0, 4.5):  # slower, and faster by no more than chance
        rates["torch"] = rate
        monkeypatch.setattr(selection, "KEPT_S", 0)
        assert make_engine(load_bundle(bundle_uri), "auto", CPU).name == "torch"


def test_a_machine_keeps_its_choice_for_a_model_among_the_same_engines(
    bundle_uri: str, cam_bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytorch, "hardware_has_bf16", lambda device: True)
    rates = {"torch": 3.0, "torch-bf16": 5.0}
    monkeypatch.setattr(selection, "_pairs_per_s", lambda engines, size: {one.name: rates[one.name] for one in engines})
    assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) == "torch-bf16"
    rates["torch"] = 8.0
    assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) == "torch-bf16"
    assert resolve_engine(load_bundle(cam_bundle_uri), "auto", CPU) == "torch"
    for damaged in (b"", b"\xff", b"torch@evil"):
        rates["torch"] = 3.0
        for kept in (tmp_path / "cache" / "derm_ray" / "engines").iterdir():
            kept.write_bytes(damaged)
        assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) == "torch-bf16"
    rates["torch"] = 8.0
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # cannot hold a folder
    assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) == "torch"


def test_auto_really_measures(bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "hardware_has_bf16", lambda device: True)
    ran = []
    run = TorchEngine.run

    def noted(self: TorchEngine, *given: np.ndarray) -> object:
        ran.append(self.name)
        return run(self, *given)

    monkeypatch.setattr(TorchEngine, "run", noted)
    assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) in ("torch", "torch-bf16")
    assert set(ran) == {"torch", "torch-bf16"}


def test_auto_says_so_too_where_there_is_one(
    bundle_uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("derm_ray"), "propagate", True)
    monkeypatch.setattr(pytorch, "hardware_has_bf16", lambda device: False)
    with caplog.at_level(logging.INFO):
        assert resolve_engine(load_bundle(bundle_uri), "auto", CPU) == "torch"
    assert "engine torch (the only one available)" in caplog.text


@pytest.mark.slow
def test_a_compiled_network_answers_as_the_eager_one(cam_bundle_uri: str) -> None:
    bundle = load_bundle(cam_bundle_uri)
    precision = resolve_precision("auto", CPU)
    eager, compiled = TorchEngine(bundle, precision, CPU), make_engine(bundle, "compiled", CPU)
    assert compiled.name == f"compiled@{precision}"
    for count in (5, 2):
        clinical, dermoscopy = images(count)
        for given in ((clinical, dermoscopy), (clinical, None)):
            expected, found = eager.run(*given), compiled.run(*given)
            assert expected.keys() == found.keys()
            for kind, probabilities in expected.items():
                assert found[kind] == pytest.approx(probabilities, abs=1e-5 if precision == "fp32" else 0.02)


def test_compiling_without_a_compiler_says_what_to_install(bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for start in (resolve_engine, make_engine):
        with pytest.raises(ConfigError, match=r"apt-get install g\+\+"):
            start(load_bundle(bundle_uri), "compiled", CPU)


def test_a_few_pairs_at_a_time_answer_as_all_at_once(cam_bundle_uri: str) -> None:
    bundle = load_bundle(cam_bundle_uri)
    engine, network, (clinical, dermoscopy) = (
        TorchEngine(bundle, "fp32", CPU),
        bundle.build(),
        images(2 * CPU_PAIRS + 1),
    )
    inputs = [torch.from_numpy(i).permute(0, 3, 1, 2) for i in (clinical, dermoscopy)]
    for given in ((0, 1), (0,), (1,)):
        with torch.inference_mode():
            whole = network(*(inputs[i] if i in given else None for i in (0, 1))).probabilities()
        parts = engine.run(clinical if 0 in given else None, dermoscopy if 1 in given else None)
        assert parts.keys() == whole.keys()
        for kind, probabilities in whole.items():
            assert parts[kind] == pytest.approx(probabilities.numpy(), abs=1e-5)


def test_a_program_too_large_for_memory_gives_way_to_a_smaller_one(
    cam_bundle_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []

    def program(clinical: torch.Tensor, dermoscopy: torch.Tensor) -> object:
        sizes.append(len(clinical))
        if len(clinical) > 8:
            raise torch.OutOfMemoryError
        return network(clinical, dermoscopy)

    network = load_bundle(cam_bundle_uri).build()
    monkeypatch.setattr(torch, "compile", lambda network, **options: program)
    engine = CompiledEngine(load_bundle(cam_bundle_uri), "fp32", CPU)
    monkeypatch.setattr(engine, "_pairs", 32)
    engine.run(*images(20))
    engine.run(*images(8))
    assert sizes == [32, 16, 8, 8, 8, 8]


class Sure:
    """Answers every pair with its first class."""

    def __init__(self, bundle: Bundle) -> None:
        self.name = "sure@1"
        self._classes = len(bundle.label_set.class_names)

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> dict[PredictionKind, Probabilities]:
        given = [(PredictionKind.CLINICAL, clinical), (PredictionKind.DERMOSCOPY, dermoscopy)]
        kinds = {kind: images for kind, images in given if images is not None}
        kinds |= {PredictionKind.CROSS: clinical} if len(kinds) == 2 else {}
        return {kind: np.eye(self._classes, dtype=np.float32)[[0] * len(images)] for kind, images in kinds.items()}


def test_a_registered_engine_is_an_option_and_answers(
    bundle_uri: str, pairs: Manifest, registered: Callable[..., None]
) -> None:
    registered(ENGINES, "sure", EngineKind(lambda bundle, *_: Sure(bundle), resolve=lambda *_: "1"))
    manifest = pairs.absolute()
    photo = str(manifest.pairs()[0].clinical_uri)
    arguments = ["score-one", "--model", bundle_uri, "--clinical", photo, "--engine"]
    done = CliRunner().invoke(app, [*arguments, "sure", "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["confidence"] == 1.0
    with pytest.raises(ConfigError, match="Known: auto, torch, torch-bf16, compiled, openvino-int8, sure"):
        CliRunner().invoke(app, [*arguments, "shure"], catch_exceptions=False)
