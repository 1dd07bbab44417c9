"""Ray Train, for real: two workers as one, runs that die and resume, and the model they seal."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest, read_manifest, write_manifest
from derm_ray.data.prepared import prepare
from derm_ray.domain import PAPER15, Calibration, Modality, PredictionKind, Split
from derm_ray.errors import ConfigError, DermRayError, ImageError, InputError, OutputExistsError, TrainingError
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.inference.predictor import Predictor
from derm_ray.lease import hold
from derm_ray.models.factory import build_network
from derm_ray.storage import read_bytes
from derm_ray.training.augmentation import Augmentation
from derm_ray.training.batches import Batch, evaluation_order, labeled, load_batch, training_order
from derm_ray.training.config import TrainConfig, debug
from derm_ray.training.loop import TrainingLoop
from derm_ray.training.run import driver, worker
from derm_ray.training.run.data_loading import batches
from derm_ray.training.run.driver import train
from derm_ray.training.run.folder import INVOCATIONS
from tests.conftest import TrainedRun, take

pytestmark = pytest.mark.ray

EXACT = replace(debug(), size=32, precision="fp32", dropout=0.0, epochs=1, global_batch_size=16)


def small(pairs: Manifest, train_pairs: int = 80, val_pairs: int = 20) -> Manifest:
    """Return a manifest whose first rows are train and the next ones val."""
    few = take(pairs, train_pairs + val_pairs).absolute()
    return few.with_column("split", ["train"] * train_pairs + ["val"] * val_pairs)


def step_losses(run_uri: str) -> list[float]:
    lines = [json.loads(line) for line in read_bytes(f"{run_uri}/metrics.jsonl").splitlines()]
    return [line["loss"] for line in lines if "step" in line]


def plain_losses(manifest: Manifest, config: TrainConfig) -> list[float]:
    """Train an epoch without Ray; return the loss of every step."""
    split, losses = labeled(manifest, Split.TRAIN, PAPER15), []
    torch.manual_seed(config.seed)
    network = build_network(config.architecture(), freeze=config.freeze, dropout=config.dropout)
    order = training_order(len(split), config.global_batch_size, seed=config.seed, epoch=0)
    with ThreadPoolExecutor(2) as executor:
        whole = [
            load_batch(split.share(rows), config.preprocessing, executor, Augmentation(config.policy, config.seed, 0))
            for rows in order
        ]
    TrainingLoop(config, network, torch.device("cpu")).train_epoch(
        0, whole, lambda _, loss, __: losses.append(loss), steps=5
    )
    return losses


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_compute_what_a_plain_loop_computes(
    ray_local: None, pairs: Manifest, tmp_path: Path, workers: int
) -> None:
    config, manifest = replace(EXACT, freeze_batch_norm=True), small(pairs)
    plain = plain_losses(manifest, config)
    assert len(plain) == 5
    found = step_losses(train(config, manifest, str(tmp_path), "run", workers=workers).run_uri)
    assert found == pytest.approx(plain, rel=1e-4)


def test_batches_that_wait_take_no_time_from_training(ray_local: None, pairs: Manifest) -> None:
    split = labeled(small(pairs), Split.TRAIN, PAPER15)
    loaded = batches(split, evaluation_order(len(split), 1), EXACT.preprocessing, rank=0, world_size=1)
    next(loaded)
    time.sleep(1)  # until all that may be loaded ahead is there
    before = time.process_time()
    time.sleep(1)
    assert time.process_time() - before < 0.3
    assert sum(len(batch.classes) for batch in loaded if isinstance(batch, Batch)) == len(split) - 1


@pytest.mark.slow
def test_workers_that_hold_all_cpus_load_their_own_batches(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    """Tasks would wait for a CPU, and the workers for the tasks."""
    config = replace(EXACT, freeze_batch_norm=True)
    two = train(config, small(pairs), str(tmp_path), "two", workers=2)
    every = train(config, small(pairs), str(tmp_path), "every", workers=2, max_workers=4)
    last = json.loads(read_bytes(f"{every.run_uri}/metrics.jsonl").splitlines()[-1])
    assert last["workers"] == 4
    assert step_losses(every.run_uri) == pytest.approx(step_losses(two.run_uri), rel=1e-4)
    with pytest.raises(ConfigError, match="--max-workers 1 is below --workers 2"):
        train(config, small(pairs), str(tmp_path), "fewer", workers=2, max_workers=1)


@pytest.mark.slow
def test_prepared_images_train_as_the_originals_do(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    original = small(pairs)
    found = read_manifest(prepare(original, str(tmp_path / "data"), EXACT.preprocessing).manifest.uri)
    runs = [train(EXACT, manifest, str(tmp_path), name) for manifest, name in ((original, "one"), (found, "two"))]
    one, two = (step_losses(run.run_uri) for run in runs)
    assert len(one) == 5
    assert two == one
    assert runs[1].metrics == runs[0].metrics


@pytest.mark.slow
def test_identical_runs_are_identical(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    first, second = (train(EXACT, small(pairs), str(tmp_path), name, workers=2) for name in ("first", "second"))
    assert step_losses(first.run_uri) == step_losses(second.run_uri)
    assert first.model_digest == second.model_digest


@pytest.mark.slow
def test_what_was_validated_is_what_was_sealed(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    """Also with two workers, whose batch norms see different shares."""
    manifest = small(pairs)
    run = train(replace(EXACT, epochs=2), manifest, str(tmp_path), "run", workers=2)
    uncalibrated = replace(load_bundle(run.bundle_uri), calibration=Calibration())  # as validated
    evaluation = evaluate(Predictor(uncalibrated, "torch"), manifest, Split.VAL, resamples=2)
    for kind, result in evaluation.kinds.items():
        for name in ("accuracy", "macro_auroc"):
            assert run.metrics[f"{kind}/{name}"] == pytest.approx(result.metrics[name].value, abs=1e-6)


def test_cross_beats_each_single_modality(trained: TrainedRun) -> None:
    """Each synthetic modality carries a part of the class; only a network that fuses them knows it."""
    result = evaluate(Predictor(load_bundle(trained.bundle_uri), "torch"), trained.manifest, resamples=50)
    metrics = {kind: result.kinds[kind].metrics["balanced_accuracy"] for kind in PredictionKind}
    assert metrics[PredictionKind.CROSS].low > metrics[PredictionKind.CLINICAL].high
    assert metrics[PredictionKind.CROSS].low > metrics[PredictionKind.DERMOSCOPY].high


def test_a_finished_run_tells_all_and_is_not_overwritten(trained: TrainedRun, pairs: Manifest) -> None:
    run = Path(trained.run_uri)
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if "step" not in line]
    assert [line["epoch"] for line in epochs] == list(range(1, 9))
    assert all(line["pairs_per_s"] > 0 for line in epochs)
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 8
    bundle = load_bundle(trained.bundle_uri)
    chosen = epochs[bundle.provenance["best_epoch"] - 1]
    assert chosen["cross/macro_auroc"] == max(line["cross/macro_auroc"] for line in epochs)
    assert bundle.provenance["manifest_digest"] == pairs.digest
    # Of train and val; val alone is too small for a reference of the answers.
    seen = sum(split in ("train", "val") for split in pairs.column("split"))
    watched = {(of.quantity, of.modality): of.samples for of in bundle.reference}
    assert watched == {(q, m): seen for q in ("brightness", "sharpness", "resolution") for m in Modality}
    with pytest.raises(OutputExistsError, match="contains a finished run"):
        train(debug(), pairs, str(run.parent), run.name)


@pytest.mark.slow
def test_other_settings_and_foreign_folders_are_refused(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="not a training run"):
        train(EXACT, small(pairs), str(tmp_path), "run")
    with pytest.raises(OutputExistsError, match="not a training run"):
        train(EXACT, small(pairs), str(tmp_path), "run", overwrite=True)
    (tmp_path / "run" / "notes.txt").unlink()
    bad = small(pairs).with_column("clinical_uri", ["/nowhere/x.jpg"] * 100)
    with pytest.raises(InputError, match=r"pair SYN_\d+: /nowhere/x\.jpg: not found"):
        train(EXACT, bad, str(tmp_path), "run")
    with pytest.raises(OutputExistsError, match=r"training\.seed was 0, now 1"):
        train(replace(EXACT, seed=1), bad, str(tmp_path), "run")
    train(replace(EXACT, seed=1), small(pairs), str(tmp_path), "run", overwrite=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_image_stops_all_workers_with_its_name(
    ray_local: None, pairs: Manifest, tmp_path: Path, workers: int
) -> None:
    good = small(pairs)
    uris = good.column("dermoscopy_uri")
    (tmp_path / "cut.jpg").write_bytes(Path(str(uris[7])).read_bytes()[:1000])
    bad = good.with_column("dermoscopy_uri", [*uris[:7], str(tmp_path / "cut.jpg"), *uris[8:]])
    with pytest.raises(InputError, match=r"pair SYN_000007: .*cut\.jpg: damaged or truncated") as caught:
        train(EXACT, bad, str(tmp_path), "run", workers=workers)
    assert not isinstance(caught.value, ImageError)


@pytest.mark.slow
def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    wild = replace(EXACT, learning_rate=1e30, head_learning_rate=1e30, clip_norm=0.0, epochs=3)
    with pytest.raises(TrainingError, match=r"the loss became nan at epoch 1, step \d.*kept in"):
        train(wild, small(pairs), str(tmp_path), "wild", workers=2)


LONG = replace(EXACT, epochs=4, freeze_batch_norm=True)


@pytest.fixture(scope="module")
def unbroken(ray_local: None, pairs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return step_losses(train(LONG, small(pairs), str(tmp_path_factory.mktemp("whole")), "run", workers=2).run_uri)


def wait_for(condition: Callable[[], object], timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_worker_costs_at_most_its_epoch(
    ray_local: None, pairs: Manifest, tmp_path: Path, unbroken: list[float]
) -> None:
    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    checkpoint = tmp_path / "run" / "checkpoint_epoch_0001"
    killed: list[int] = []

    def kill() -> None:
        wait_for(checkpoint.exists)
        workers = [
            p
            for p in psutil.Process(raylet).children()
            if "TrainWorker" in p.name() or "TrainWorker" in "".join(p.cmdline())
        ]
        killed.append(workers[0].pid)
        workers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    result = train(LONG, small(pairs), str(tmp_path), "run", workers=2)
    killer.join()
    assert killed
    assert step_losses(result.run_uri) == pytest.approx(unbroken, rel=1e-4)


def die_in_validation(flag: str, settings: dict[str, Any]) -> DermRayError | None:
    """Train with validations that count as long, and die once in the second one."""

    def predict(self: Any) -> Any:
        if self.history and self.validation_s and not Path(flag).exists():
            Path(flag).touch()
            time.sleep(3)  # until Ray Train has taken the report before it
            os._exit(1)
        return predicted(self)

    predicted = worker._Worker._predict
    worker.LONG_VALIDATION_S, worker._Worker._predict = 0.0, predict  # type: ignore[method-assign]
    return worker.train_worker(settings)


@pytest.mark.slow
def test_a_worker_lost_in_a_long_validation_costs_no_step(
    ray_local: None,
    pairs: Manifest,
    tmp_path: Path,
    unbroken: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(driver, "train_worker", partial(die_in_validation, str(tmp_path / "flag")))
    monkeypatch.setattr(logging.getLogger("derm_ray"), "propagate", True)
    with caplog.at_level(logging.INFO, "derm_ray"):
        result = train(LONG, small(pairs), str(tmp_path), "run", workers=2)
    assert (tmp_path / "flag").exists()
    steps = len(unbroken) // LONG.epochs
    assert f"resuming at epoch 2, step {steps + 1}" in caplog.text
    assert step_losses(result.run_uri) == pytest.approx(unbroken, rel=1e-4)


def test_a_run_that_another_process_works_on_is_refused(ray_local: None, pairs: Manifest, tmp_path: Path) -> None:
    with (
        hold(str(tmp_path / "run" / INVOCATIONS), renew_s=0.1),
        pytest.raises(OutputExistsError, match="is being written by another run"),
    ):
        train(EXACT, small(pairs), str(tmp_path), "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [INVOCATIONS]


@pytest.mark.slow
def test_a_killed_driver_resumes_under_the_same_name(pairs: Manifest, tmp_path: Path, unbroken: list[float]) -> None:
    write_manifest(small(pairs), str(tmp_path / "m.parquet"))
    settings = {k: v for k, v in LONG.to_json().items() if v != debug().to_json()[k]}
    command = [
        str(Path(sys.executable).parent / "derm-ray"), "train", "--manifest", "m.parquet", "--out", ".", "--name", "run",
        "--preset", "debug", "--workers", "2", *(a for k, v in settings.items() for a in ("--set", f"{k}={v}")),
    ]  # fmt: skip
    driver = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    try:
        wait_for((tmp_path / "run" / "checkpoint_epoch_0001").exists)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert not (tmp_path / "run" / "bundle").exists()
    resumed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after epoch" in resumed.stderr
    assert re.search(r"^epoch \d of 4 \(val cross macro_auroc", resumed.stdout)
    assert step_losses(str(tmp_path / "run")) == pytest.approx(unbroken, rel=1e-4)


def test_a_run_that_was_saved_behind_an_epoch_s_last_step_has_none_left(ray_local: None, pairs: Manifest) -> None:
    split = labeled(small(pairs), Split.VAL, PAPER15)
    assert list(batches(split, [], EXACT.preprocessing, rank=0, world_size=1)) == []


def test_the_recipe_is_sealed_in_the_bundle(trained: TrainedRun) -> None:
    training = load_bundle(trained.bundle_uri).provenance["training"]
    assert TrainConfig(**training) == replace(debug(), epochs=8)
