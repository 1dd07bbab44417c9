"""The study for real: trials on Ray Train, one that fails, and what is done is not done again."""

import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from derm_ray import __version__, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest, write_manifest
from derm_ray.data.preprocessing import PairPixels, load_pairs
from derm_ray.domain import PredictionKind, Split
from derm_ray.errors import ConfigError, ManifestError, OutputExistsError
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.inference.predictor import Predictor
from derm_ray.lease import hold
from derm_ray.storage import list_files
from derm_ray.studies.reproduction import PRESETS
from derm_ray.studies.reproduction.grid import Row
from derm_ray.studies.reproduction.predictions import read_predictions
from derm_ray.studies.reproduction.study import reproduce
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train
from tests.conftest import INTERRUPTIBLE, RunCommand, take
from tests.integration.test_training import EXACT, small, step_losses


@pytest.fixture(scope="module")
def few(pairs: Manifest) -> Manifest:
    """90 pairs: 60 train, 15 val, 15 test."""
    return take(pairs, 90).absolute().with_column("split", ["train"] * 60 + ["val"] * 15 + ["test"] * 15)


@pytest.mark.slow
def test_a_cell_that_fails_leaves_the_others_and_is_done_next_time(
    ray_local: None, few: Manifest, tmp_path: Path
) -> None:
    rows = ("share-gap", "triple-cam_bp")
    out = tmp_path / "study"
    options = {"preset": "debug", "seeds": (0,), "only": rows}
    foreign = out / "trials" / "share-gap-seed0" / "notes.txt"
    first = reproduce(few, str(out), **options, images=False)
    by_name = {row.name: row for row in first.results.rows}
    assert set(by_name) >= {"cam", *rows, "majority-class", "logistic-regression"}
    assert not any(by_name[name].problems for name in ("cam", *rows))
    digest = by_name["triple-cam_bp"].seeds[0].metadata["model_digest"]
    page = Path(first.html_uri).read_text()
    assert "data:image" not in page

    trial = out / "trials" / "share-gap-seed0"
    for file in list_files(str(trial)):
        Path(file).unlink()
    foreign.write_text("mine")
    broken = reproduce(few, str(out), **options, images=False)
    by_name = {row.name: row for row in broken.results.rows}
    assert "not a training run" in by_name["share-gap"].problems[0]
    assert "not a training run" in Path(broken.html_uri).read_text()
    assert by_name["triple-cam_bp"].seeds[0].metadata["model_digest"] == digest

    foreign.unlink()
    repaired = reproduce(few, str(out), **options)
    by_name = {row.name: row for row in repaired.results.rows}
    assert not by_name["share-gap"].problems
    assert by_name["triple-cam_bp"].seeds[0].metadata["model_digest"] == digest
    assert "data:image" in Path(repaired.html_uri).read_text()

    answers = read_predictions(str(out / "trials" / "triple-cam_bp-seed0"))
    assert answers is not None
    bundle = load_bundle(str(out / "trials" / "triple-cam_bp-seed0" / "bundle"))
    assert bundle.network.cam is not None
    test = few.select(Split.TEST).pairs()
    assert answers.pair_ids == tuple(pair.pair_id for pair in test)
    with ThreadPoolExecutor(2) as executor:
        pixels = [p for p in load_pairs(test, bundle.preprocessing, executor) if isinstance(p, PairPixels)]
    swapped = [PairPixels(pair.dermoscopy, pair.clinical) for pair in pixels]
    for kept, shown in ((answers.given, pixels), (answers.swapped, swapped)):
        predicted = Predictor(bundle, "auto").predict(shown)
        for kind in PredictionKind:
            assert np.allclose(kept[kind], [p.per_input_predictions[kind] for p in predicted], atol=2e-2), kind
    with pytest.raises(OutputExistsError, match="a study whose manifest_digest"):
        reproduce(few.with_column("split", few.column("split")[::-1]), str(out), **options)


@pytest.mark.slow
def test_a_row_is_measured_as_its_model_is_used(
    ray_local: None, few: Manifest, tmp_path: Path, registered: Callable[..., None]
) -> None:
    """With the test-time augmentation, the decision offsets and the patient data of its recipe, and from the cache."""
    name, weights = "mobilenetv3_small_050", str(tmp_path / "weights.safetensors")
    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), weights)
    recipe = {"trunk": f"timm/{name}", "freeze": "stride4", "decide": "balanced_accuracy", "patient_data": "age,sex"}

    def rows(label_set: str) -> tuple[Row, ...]:
        sizes = {"size": 32, "epochs": 1, "global_batch_size": 16, "network": "share", "precision": "fp32"}
        base = make_config("debug", {"label_set": label_set, **recipe, **sizes})
        return Row("flips", "Four views", replace(base, tta="flips")), Row("none", "One view", base)

    registered(PRESETS, "ours", rows)
    options = {"preset": "ours", "seeds": (0,), "init_weights": {f"timm/{name}": weights}, "images": False}
    study = reproduce(few, str(tmp_path / "study"), **options)  # type: ignore[arg-type]
    for tta, views in (("flips", 4), ("none", 1)):
        row = study.results.row(tta)
        assert row is not None
        assert not row.problems
        bundle = load_bundle(str(tmp_path / "study" / "trials" / f"{tta}-seed0" / "bundle"))
        assert (bundle.passes, bundle.calibration.decide) == (views, "balanced_accuracy")
        assert bundle.patient is not None
        for swapped, metrics in ((False, row.metrics), (True, row.swapped)):
            expected = evaluate(Predictor(bundle, "torch"), few, Split.TEST, resamples=5, swapped=swapped)
            for (metric, kind), found in metrics.items():
                if "cancer_isic" not in metric:
                    value = expected.kinds[kind].metrics[metric].value
                    assert found.seeds[0] == pytest.approx(value, abs=1e-6), (tta, metric, kind, swapped)
        assert ("balanced_accuracy", PredictionKind.CROSS) in row.metrics


@pytest.mark.slow
def test_cached_activations_train_the_same_network(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    config = replace(EXACT, network="share", freeze="pool2", epochs=2)
    cache = tmp_path / "cache"
    plain = train(config, small(pairs), str(tmp_path), "plain")
    cached = train(config, small(pairs), str(tmp_path), "cached", cache=str(cache))
    assert step_losses(cached.run_uri) == pytest.approx(step_losses(plain.run_uri), rel=1e-4)
    assert sum(file.endswith(".features") for file in list_files(str(cache))) == 3
    metrics = load_bundle(cached.bundle_uri).calibration
    assert set(metrics.temperatures) == set(PredictionKind)
    assert np.all(np.array(list(metrics.temperatures.values())) > 0)


def test_what_cannot_be_studied_is_one_message_before_anything_trains(few: Manifest, tmp_path: Path) -> None:
    out = str(tmp_path / "study")
    with pytest.raises(ConfigError, match=r"'paper15_cancer' is a binary task"):
        reproduce(few, out, label_set_name="paper15_cancer")
    blind = few.with_column("clinical_uri", [None] * len(few))
    with pytest.raises(ConfigError, match="no pair has a clinical image"):
        reproduce(blind, out)
    with pytest.raises(ManifestError, match="dermoscopy_uri is empty"):
        reproduce(few.with_column("dermoscopy_uri", [None, *few.column("dermoscopy_uri")[1:]]), out)
    with pytest.raises(ConfigError, match="no pair in split test"):
        reproduce(few.select(Split.TRAIN).with_column("split", ["train"] * 50 + ["val"] * 10), out)
    with pytest.raises(ConfigError, match="unknown row 'tripel'"):
        reproduce(few, out, only=["tripel"])
    with pytest.raises(ConfigError, match=r"resnet18=...: no row has this trunk. Used are tiny, vgg16."):
        reproduce(few, out, preset="debug", init_weights={"timm/resnet18": "r.safetensors"})
    assert not Path(out).exists()
    (tmp_path / "study").mkdir()
    metadata = {"derm_ray_version": __version__, "manifest_digest": few.digest, "label_set": "paper15"}
    storage.write_json(f"{out}/_STUDY.json", {**metadata, "preset": "debug", "init_weights": {}})
    with hold(f"{out}/invocations"), pytest.raises(OutputExistsError, match="is being written by another run"):
        reproduce(few, out, preset="debug")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_study_that_is_stopped_goes_on_where_it_was(
    few: Manifest, tmp_path: Path, derm_ray: RunCommand, stop: signal.Signals, code: int
) -> None:
    write_manifest(few, str(tmp_path / "m.parquet"))
    command = ("reproduce", "--manifest", "m.parquet", "--out", "study", "--preset", "debug", "--row", "sole-gap")
    study = tmp_path / "study"
    program = [*INTERRUPTIBLE, *command, "--no-images"]
    with subprocess.Popen(program, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 300
        while not list(study.rglob("checkpoint_manager_snapshot.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(stop)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert stop is signal.SIGKILL or said.endswith("stopped; the same command resumes.\n")
    done = derm_ray(*command, "--no-images")
    assert done.returncode == 0, done.stderr
    assert "resuming after epoch" in done.stderr
    assert "Sole-Net" in done.stdout
