import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from derm_ray.bundle import load_bundle
from derm_ray.cli import app
from derm_ray.data.loading import load_all
from derm_ray.errors import ConfigError
from derm_ray.inference.engines.selection import make_engine
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import CamConfig, NetworkConfig
from derm_ray.studies.benchmark import plain_scoring, scoring
from derm_ray.studies.benchmark.bench import run_benchmark
from derm_ray.studies.benchmark.comparison import FULL, QUICK, Effort, Row, compare
from derm_ray.studies.benchmark.computing import _eager, _operations
from derm_ray.studies.benchmark.materials import draw_pairs
from derm_ray.studies.benchmark.scoring import RunTimes
from derm_ray.studies.benchmark.training import BATCH, LEFT_OUT, _initial, _pairs_per_s
from derm_ray.training.config import cpu
from derm_ray.training.start import make_start
from tests.conftest import seal_untrained


def measured(
    ours: list[float], other: list[float], threshold: float = 1.0, *, at_most: bool = False
) -> tuple[Row, str]:
    order, sides = "", {"A": iter([0.0, *ours]), "B": iter([0.0, *other])}

    def side(name: str) -> float:
        nonlocal order
        order += name
        return next(sides[name])

    effort = Effort(len(ours), 0.0, 5, 0.0, 0, 0)
    row = compare(
        "x", "A / B", lambda: side("A"), lambda: side("B"), effort, unit="s", threshold=threshold, at_most=at_most
    )  # fmt: skip
    return row, order


def test_sides_take_turns_and_a_drifting_machine_moves_no_ratio() -> None:
    row, order = measured([2, 4, 8, 16, 32], [1, 2, 4, 8, 16])
    assert order == "AB" + "AB" + "BA" + "AB" + "BA" + "AB"
    assert (row.ours, row.baseline) == (8, 4)
    assert (row.ratio, row.low, row.high) == (2, 2, 2)


def test_the_whole_interval_has_to_keep_the_threshold() -> None:
    scattered = [0.8, 1.0, 1.1, 1.2, 1.4]
    row, _ = measured(scattered, [1.0] * 5)
    assert row.low < row.ratio == 1.1 < row.high
    assert not row.passed
    assert measured(scattered, [1.0] * 5, threshold=0.79)[0].passed
    assert not measured(scattered, [1.0] * 5, threshold=1.3, at_most=True)[0].passed
    assert measured(scattered, [1.0] * 5, threshold=1.41, at_most=True)[0].passed


def test_operations_of_a_pair_are_those_of_its_convolutions(tmp_path_factory: pytest.TempPathFactory) -> None:
    config = NetworkConfig("share", "vgg16", "gap")
    bundle = load_bundle(seal_untrained(str(tmp_path_factory.mktemp("vgg") / "bundle"), config, size=224))
    # 15.35 G multiplications an image in the 13 convolutions (Simonyan and Zisserman 2014, configuration D).
    assert _operations(bundle) == pytest.approx(2 * 2 * 15.35e9, rel=0.01)


def test_the_plain_program_answers_as_the_engine_does(cam_bundle_uri: str) -> None:
    bundle = load_bundle(cam_bundle_uri)
    size = bundle.preprocessing.size
    clinical, dermoscopy = torch.randint(0, 256, (2, 3, size, size, 3), dtype=torch.uint8).numpy()
    plain = _eager(bundle)(clinical, dermoscopy)
    for kind, probabilities in make_engine(bundle, "torch", torch.device("cpu")).run(clinical, dermoscopy).items():
        assert probabilities == pytest.approx(plain[kind], abs=1e-5)


def test_a_table_for_people_and_one_line_for_machines(bundle_uri: str) -> None:
    options = ["bench", "--model", bundle_uri, "--quick", "--only", "decoding"]
    line = CliRunner().invoke(app, [*options, "--json"])
    assert line.exit_code == 0, line.output
    (text,) = line.stdout.splitlines()
    told = json.loads(text)
    assert {"cpu", "cores", "instructions", "torch"} <= told["machine"].keys()
    assert [row["name"] for row in told["rows"]] == ["decoding"]
    for row in told["rows"]:
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["ratio"] == pytest.approx(row["derm_ray"] / row["baseline"], rel=0.5)
    assert told["rows"][0]["ratio"] < 0.6  # a photo in full takes several times as long


def test_an_unknown_row_is_refused_before_anything_is_measured(bundle_uri: str) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'decoding'"):
        run_benchmark(bundle_uri, only=["decodings"])


def test_the_loop_written_by_hand_scores_as_the_product_does(
    cam_bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain_scoring, "BATCH", 4)
    pairs = draw_pairs(tmp_path, 10, side=64)
    plain_scoring.score(cam_bundle_uri, pairs.uri, str(tmp_path / "out"), "torch", 4)
    parts = [pq.read_table(part) for part in sorted((tmp_path / "out").glob("part-*"))]
    assert [len(part) for part in parts] == [4, 4, 2]
    found = pa.concat_tables(parts)
    bundle = load_bundle(cam_bundle_uri)
    (loaded,) = load_all(pairs.pairs(), bundle.preprocessing, pairs.uri)
    expected = Predictor(bundle, "torch").predict(loaded)
    assert found["pair_id"].to_pylist() == [f"P{row:07d}" for row in range(10)]
    assert found["diagnosis"].to_pylist() == [prediction.diagnosis for prediction in expected]
    for number, name in enumerate(bundle.label_set.class_names):
        assert found[f"p_{name}"].to_pylist() == pytest.approx([p.probabilities[number] for p in expected], abs=1e-6)


def test_rates_are_read_off_the_parts(tmp_path: Path) -> None:
    for number, at in enumerate((1012.0, 1014.0, 1020.0)):
        part = tmp_path / f"part-{number}.parquet"
        part.touch()
        os.utime(part, (at, at))
    times = scoring._times(tmp_path, 32, began=1000.0, ended=1023.0)
    assert times == (8.0, 8.0, 3.0)  # 64 pairs in 8 s; the first 32 took 4 s of the first 12
    assert times.pairs_within(600) == 8 * 589
    assert times.seconds(96) == 23.0
    assert scoring._times(tmp_path, 32, began=1000.0, ended=1023.0, replicas=2).rate == 32 / 6


def test_what_could_not_be_measured_is_told_beside_what_was(bundle_uri: str) -> None:
    options = ["bench", "--model", bundle_uri, "--quick", "--only", "int8", "--only", "decoding"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 1
    assert re.search(r"^decoding +\d", done.stdout, re.MULTILINE)
    assert re.search(r"^int8 +NOT MEASURED: .*derm-ray model quantize", done.stdout, re.MULTILINE)


def test_the_cost_at_scale_counts_plan_and_end(monkeypatch: pytest.MonkeyPatch, ray_local: None) -> None:
    def frame(model: str, folder: Path, pairs: int, numbers: object) -> RunTimes:
        del model, folder, numbers
        return RunTimes(1000.0, 5.0, 2.0) if pairs == 1000 else RunTimes(1000.0, 6.0, 3.0)

    monkeypatch.setattr(scoring, "_frame", frame)
    row = scoring.cost_at_scale(Effort(1, 1, 5, 1, 1, 100_000))
    assert (row.ours, row.baseline) == (pytest.approx(1.04), 1.0)


def test_beyond_64_pairs_the_same_images_come_again(tmp_path: Path) -> None:
    pairs = draw_pairs(tmp_path, 70, side=32)
    assert len(set(pairs.column("pair_id"))) == 70
    assert pairs.column("clinical_uri")[64] == pairs.column("clinical_uri")[0]
    assert all(Path(str(uri)).exists() for uri in pairs.column("dermoscopy_uri"))


def test_the_initial_weights_of_the_training_comparison_fit(tmp_path: Path) -> None:
    config = replace(cpu(), head="cam_bp", size=64)
    weights, cam = _initial(tmp_path, config)
    assert make_start(config, weights, cam).architecture.cam == CamConfig("vgg16", 15, stem="pool4")


@pytest.mark.parametrize("effort", [FULL, QUICK])
def test_a_training_run_has_steps_that_count(effort: Effort) -> None:
    ended = [float(step) for step in range(LEFT_OUT + effort.steps)]
    assert _pairs_per_s(ended) == BATCH


@pytest.mark.slow
def test_whole_runs_are_compared(bundle_uri: str) -> None:
    options = [
        "bench",
        "--model",
        bundle_uri,
        "--quick",
        "--only",
        "engine",
        "--only",
        "bulk",
        "--only",
        "training",
        "--json",
    ]
    line = CliRunner().invoke(app, options)
    assert line.exit_code == 0, line.output
    rows = {row["name"]: row for row in json.loads(line.stdout)["rows"]}
    assert list(rows) == ["engine", "bulk", "bulk-10min", "bulk-engine", "train-torchrun", "train-workers"]
    assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in rows.values())
    assert rows["bulk-10min"]["ratio"] < rows["bulk"]["ratio"]  # Ray takes longer to start
