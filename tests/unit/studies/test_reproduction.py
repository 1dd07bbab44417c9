"""The study's metrics, verdicts and report on answers made up for the purpose."""

import csv
import functools
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from derm_ray.domain import PAPER15, CancerDefinition, PredictionKind, label_set
from derm_ray.errors import ConfigError, StorageError
from derm_ray.evaluation.comparison import lesion_weights
from derm_ray.evaluation.evaluate import compute_metrics
from derm_ray.evaluation.metrics import METRICS, Metric, metric_names
from derm_ray.models.factory import CamConfig, build_network
from derm_ray.studies.reproduction import PRESETS
from derm_ray.studies.reproduction.claims import (
    NOT_DEFINED,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    UNDECIDED,
    Claim,
    Side,
    judge,
    paper_claims,
)
from derm_ray.studies.reproduction.gallery import wrong_alone_right_together
from derm_ray.studies.reproduction.grid import as_published, make_trials
from derm_ray.studies.reproduction.metrics import draws, seed_metrics, tasks_of
from derm_ray.studies.reproduction.predictions import TrialPredictions, read_predictions, write_predictions
from derm_ray.studies.reproduction.report import main_table, render_html
from derm_ray.studies.reproduction.results import StudyResults, assemble
from derm_ray.studies.reproduction.study import parse_seeds, parse_weights
from derm_ray.studies.reproduction.trials import UNAVAILABLE, TrialOutcome

PAIRS = 200


def answers(skill: float, seed: int = 0, labels: str = "paper15") -> TrialPredictions:
    """Answers that are right in about ``skill`` of the pairs."""
    chosen = label_set(labels)
    classes = len(chosen.class_names)
    truth = np.random.default_rng(7).integers(0, classes, PAIRS)
    generator = np.random.default_rng((seed, round(1000 * skill)))

    def scores(level: float) -> np.ndarray:
        raw = generator.random((PAIRS, classes)).astype(np.float32)
        raw[np.arange(PAIRS), truth] += 2.0 * (generator.random(PAIRS) < level)
        return np.asarray(raw / raw.sum(1, keepdims=True), np.float32)

    given = {
        PredictionKind.CLINICAL: scores(skill * 0.6),
        PredictionKind.DERMOSCOPY: scores(skill * 0.7),
        PredictionKind.CROSS: scores(skill),
    }
    ids = tuple(f"pair{i}" for i in range(PAIRS))
    metadata = {"model_digest": "d" * 64, "best_epoch": 3, "last_run_seconds": 1.0, "temperatures": {}}
    lesions = tuple(f"lesion{i // 2}" for i in range(PAIRS))
    return TrialPredictions(chosen, ids, lesions, truth, given, {k: scores(skill * 0.5) for k in given}, metadata)


SKILLS = {"sole-gap": 0.3, "share-gap": 0.5, "triple-gap": 0.8, "triple-bp": 0.8, "triple-cam_bp": 0.8, "share-bp": 0.5}


@cache
@functools.cache
def study(seeds: tuple[int, ...] = (0, 1)) -> StudyResults:
    outcomes = []
    for trial in make_trials(PRESETS["milk10k-cpu"]("paper15"), seeds):
        skill, labels = SKILLS.get(trial.row.name, 0.5), trial.config.label_set
        if "resnet" in trial.row.name or "googlenet" in trial.row.name:
            outcomes.append(TrialOutcome(trial, None, UNAVAILABLE))
        elif trial.name == "sole-bp-seed1":
            outcomes.append(TrialOutcome(trial, None, "failed: <the loss> became nan"))
        else:
            outcomes.append(TrialOutcome(trial, answers(skill, trial.seed, labels)))
    metadata = {"label_set": "paper15", "preset": "milk10k-cpu", "seeds": list(seeds), "grouping": "lesion"}
    metadata["pairs"] = {"train": 700, "val": 100, "test": PAIRS}
    return assemble(outcomes, {"logistic-regression": ("Logistic regression", answers(0.2))}, metadata, plain="gap")


def test_the_figures_are_those_of_evaluate() -> None:
    trial = answers(0.6)
    scores = trial.given[PredictionKind.CROSS]
    weights = np.ones((1, PAIRS))
    expected = compute_metrics(PAPER15, trial.truth, scores)
    isic = compute_metrics(PAPER15, trial.truth, scores, CancerDefinition.ISIC)
    expected |= {name.replace("cancer/", "cancer_isic/"): value for name, value in isic.items() if "cancer/" in name}
    for name in metric_names(tasks_of(PAPER15)):
        assert draws(name, trial, scores, weights)[0] == pytest.approx(expected[name], abs=1e-6), name


def test_a_registered_metric_is_in_the_studys_results_and_page(registered: Callable[..., None]) -> None:
    def sure(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ probabilities[np.arange(len(labels)), labels] / weights.sum(1)

    registered(METRICS, "sureness", Metric("Sureness", sure))
    trials = make_trials(PRESETS["milk10k-cpu"]("paper15"), (0,))
    trial = next(trial for trial in trials if trial.row.name == "triple-gap")
    metadata = {
        "label_set": "paper15",
        "preset": "p",
        "seeds": [0],
        "grouping": "lesion",
        "pairs": {"train": 1, "val": 1, "test": 1},
    }
    results = assemble([TrialOutcome(trial, answers(0.8), None)], {}, metadata, plain="gap")
    assert "triple-gap,paper15,0,cross,given,sureness," in results.to_csv()
    assert "<th>Sureness</th>" in render_html(results, None)


@pytest.mark.parametrize(
    ("better", "worse", "verdict"),
    [(0.8, 0.3, REPRODUCED), (0.3, 0.8, NOT_REPRODUCED), (0.5, 0.5, UNDECIDED)],
)
def test_verdicts(better: float, worse: float, verdict: str) -> None:
    rows = {
        "a": {s: answers(better, s) for s in (0, 1)},
        "b": {s: answers(worse, s + (better == worse)) for s in (0, 1)},
    }
    found = judge(
        Claim("a beats b", "ours", ((1, Side("a")), (-1, Side("b")))), rows, lesion_weights(rows["a"][0].lesion_ids)
    )
    assert found.verdict == verdict
    assert found.difference is not None
    assert found.difference.low <= found.difference.value <= found.difference.high
    assert set(found.mcnemar) == {0, 1}
    right = [(trial.given[PredictionKind.CROSS].argmax(1) == trial.truth) for trial in (rows["a"][0], rows["b"][0])]
    gained, lost = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert found.mcnemar[0] == pytest.approx(binomtest(gained, gained + lost).pvalue)


def test_a_claim_without_its_rows_is_not_run() -> None:
    weights = lesion_weights([str(i) for i in range(PAIRS)], resamples=5)
    claims = paper_claims("gap")
    assert len({claim.text for claim in claims}) == len(claims)
    assert {judge(claim, {}, weights).verdict for claim in claims} == {"not run"}


def test_rows_are_compared_on_the_seeds_they_have_in_common() -> None:
    same, poor = answers(0.5), answers(0.2)
    rows = {"a": {0: same, 1: answers(0.9, 1), 2: answers(0.9, 2)}, "b": {0: same}, "c": {3: poor}}
    weights = lesion_weights(same.lesion_ids)
    found = judge(Claim("a beats b", "ours", ((1, Side("a")), (-1, Side("b")))), rows, weights)
    assert (found.verdict, found.seeds, found.mcnemar) == (UNDECIDED, (0,), {0: 1.0})
    apart = judge(Claim("a beats c", "ours", ((1, Side("a")), (-1, Side("c")))), rows, weights)
    assert (apart.verdict, apart.difference) == (NOT_RUN, None)


def test_a_figure_that_the_split_does_not_have_is_no_verdict() -> None:
    trial = answers(0.5)
    benign = PAPER15.class_names.index("solar_lentigo")
    without = replace(trial, truth=np.where(trial.truth == PAPER15.class_names.index("melanoma"), benign, trial.truth))
    sides = ((1, Side("a")), (-1, Side("a", PredictionKind.CLINICAL)))
    found = judge(Claim("a", "ours", sides, "melanoma/auroc"), {"a": {0: without}}, lesion_weights(trial.lesion_ids))
    assert (found.verdict, found.difference) == (NOT_DEFINED, None)


def test_what_was_not_run_is_not_judged() -> None:
    trials = [
        trial for trial in make_trials(PRESETS["milk10k-cpu"]("paper15"), (0,)) if trial.row.name == "triple-cam_bp"
    ]
    metadata = {"label_set": "paper15", "preset": "milk10k-cpu", "seeds": [0], "grouping": "lesion"}
    results = assemble([TrialOutcome(trials[0], answers(0.8))], {}, metadata, plain="gap")
    verdicts = {verdict.claim.text: verdict.verdict for verdict in results.verdicts}
    assert verdicts["Triple-Net: cross beats clinical alone"] == NOT_RUN
    assert verdicts["CAM-BP helps Triple-Net, cross"] == NOT_RUN
    assert verdicts["Triple-Net + CAM-BP: cross beats clinical alone, all diagnoses"] == REPRODUCED


@pytest.mark.parametrize(
    ("task", "has", "lacks"),
    [
        ("cancer", "cancer/auroc", "cancer_isic/auroc"),
        ("cancer_isic", "cancer_isic/auroc", "cancer/auroc"),
        ("melanoma", "melanoma/auroc", "cancer/auroc"),
    ],
)
def test_a_head_of_one_task_has_the_figures_of_that_task(task: str, has: str, lacks: str) -> None:
    row = study().row(f"triple-cam_bp-{task}")
    assert row is not None
    assert (has, PredictionKind.CROSS) in row.metrics
    assert (lacks, PredictionKind.CROSS) not in row.metrics
    assert row.title not in dict(main_table(study()))


def test_the_report_shows_every_row_its_problems_and_nothing_from_elsewhere() -> None:
    results = study()
    page = render_html(results, None)
    assert UNAVAILABLE in page
    assert "failed: &lt;the loss&gt; became nan" in page
    assert "data:image" not in page
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)
    assert page.count("<svg") == 3
    assert "68.2%" in page
    verdicts = {verdict.claim.text: verdict.verdict for verdict in results.verdicts}
    assert verdicts["Triple-Net beats Sole-Net, cross"] == REPRODUCED
    assert verdicts["Triple-Net + CAM-BP beats ResNet-50 + BP, cross"] == "not run"
    assert verdicts["Triple-Net + CAM-BP beats logistic regression, balanced accuracy"] == REPRODUCED
    assert ("Triple-Net + CAM-BP", 4) in [(title, len(trials)) for title, trials in main_table(results)]


def test_json_and_csv_hold_the_same_figures() -> None:
    results = study()
    values = json.loads(json.dumps(results.to_json(), allow_nan=False))
    rows = {row["row"]: row for row in values["rows"]}
    assert rows["resnet50"]["problems"] == {"0": UNAVAILABLE, "1": UNAVAILABLE}
    assert rows["sole-bp"]["metrics"]["cross/accuracy"]["seeds"].keys() == {"0"}
    lines = list(csv.DictReader(io.StringIO(results.to_csv())))
    (line,) = [
        one
        for one in lines
        if (one["row"], one["seed"], one["prediction"], one["metric"], one["images"])
        == ("triple-gap", "mean", "cross", "accuracy", "given")
    ]
    mean = rows["triple-gap"]["metrics"]["cross/accuracy"]["mean"]
    assert float(line["value"]) == pytest.approx(mean["value"], abs=1e-6)
    assert line["paper"] == "0.682"
    assert rows["triple-cam_bp-melanoma"]["label_set"] == "paper15_melanoma"
    assert rows["triple-cam_bp"]["settings"]["head"] == "cam_bp"


def test_the_gallery_takes_what_only_both_images_get_right() -> None:
    trial = answers(0.7)
    both, either = wrong_alone_right_together(trial)
    right = {kind: scores.argmax(1) == trial.truth for kind, scores in trial.given.items()}
    assert both
    assert all(right[PredictionKind.CROSS][i] for i in both + either)
    assert not any(right[PredictionKind.CLINICAL][i] or right[PredictionKind.DERMOSCOPY][i] for i in both)
    assert all(right[PredictionKind.CLINICAL][i] != right[PredictionKind.DERMOSCOPY][i] for i in either)
    certainty = [trial.given[PredictionKind.CROSS][i, trial.truth[i]] for i in both]
    assert certainty == sorted(certainty, reverse=True)


def test_predictions_come_back_as_they_went(tmp_path: Path) -> None:
    assert read_predictions(str(tmp_path)) is None
    trial = answers(0.5, labels="paper15_cancer")
    (tmp_path / "predictions.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(StorageError, match=r"predictions\.parquet: damaged .* Delete it"):
        read_predictions(str(tmp_path))
    write_predictions(trial, str(tmp_path))
    read = read_predictions(str(tmp_path))
    assert read is not None
    assert (read.labels, read.pair_ids, read.lesion_ids) == (trial.labels, trial.pair_ids, trial.lesion_ids)
    assert (read.truth == trial.truth).all()
    assert read.metadata == trial.metadata
    for kind in PredictionKind:
        assert (read.given[kind] == trial.given[kind]).all()
        assert (read.swapped[kind] == trial.swapped[kind]).all()


def test_a_model_with_decision_offsets_is_measured_by_what_it_names(tmp_path: Path) -> None:
    plain = answers(0.6)
    offsets = {str(kind): [3.0 * (index % 3) for index in range(15)] for kind in PredictionKind}
    write_predictions(replace(plain, metadata={"offsets": offsets}), str(tmp_path))
    trial = read_predictions(str(tmp_path))
    assert trial is not None
    scores = trial.given[PredictionKind.CROSS]
    named = scores * np.exp(offsets["cross"])
    assert (trial.named(PredictionKind.CROSS) == named.argmax(1)).all()
    assert (trial.named(PredictionKind.CROSS) != scores.argmax(1)).any()
    once = np.ones((1, PAIRS))
    by_name, by_rank = compute_metrics(PAPER15, trial.truth, named), compute_metrics(PAPER15, trial.truth, scores)
    for metric, expected in (("balanced_accuracy", by_name), ("macro_f1", by_name), ("macro_auroc", by_rank)):
        found = seed_metrics(metric, {0: trial}, PredictionKind.CROSS, once)
        assert found is not None
        assert found.seeds[0] == pytest.approx(expected[metric], abs=1e-9), metric
    assert by_name["balanced_accuracy"] != by_rank["balanced_accuracy"]
    rows, sides = {"a": {0: trial}, "b": {0: plain}}, ((1, Side("a")), (-1, Side("b")))
    verdict = judge(Claim("a", "ours", sides), rows, lesion_weights(trial.lesion_ids, resamples=5))
    right = [one.named(PredictionKind.CROSS) == trial.truth for one in (trial, plain)]
    gained, lost = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    assert gained + lost
    assert verdict.mcnemar[0] == pytest.approx(binomtest(gained, gained + lost).pvalue)
    both, _ = wrong_alone_right_together(trial)
    assert set(both) <= set(np.flatnonzero(right[0]).tolist())
    assert set(both) != set(wrong_alone_right_together(plain)[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_every_cell_of_every_preset_can_be_built(preset: str) -> None:
    trials = make_trials(PRESETS[preset]("paper15"), [0, 1])
    assert len({trial.name for trial in trials}) == len(trials)
    for place, trial in enumerate(trials):
        cam = None
        if trial.cam is not None:
            assert trial.cam in trials[:place]
            cam = CamConfig(trial.cam.config.trunk, 15)
        with torch.device("meta"):
            build_network(trial.config.architecture(cam), freeze=trial.config.freeze)


def test_the_cpu_grid_is_the_papers_table_on_cached_activations() -> None:
    trials = {trial.row.name: trial for trial in make_trials(PRESETS["milk10k-cpu"]("paper15"), [0])}
    table = {f"{network}-{head}" for network in ("sole", "share", "triple") for head in ("gap", "bp", "cam_bp")}
    assert table <= set(trials)
    assert all(trials[name].cached for name in table)
    assert trials["triple-cam_bp"].trunks == {"vgg16"}
    assert not trials["triple-cam_bp-googlenet"].cached
    assert trials["triple-cam_bp-googlenet"].trunks == {"vgg16", "googlenet"}


def test_rows_are_of_the_networks_that_were_published_where_their_weights_are_given() -> None:
    table = PRESETS["milk10k-cpu"]("paper15")
    assert [row.config for row in as_published(table, {"vgg16"})] == [row.config for row in table]
    found = make_trials(as_published(table, {"googlenet_2014", "resnet50_v1"}), [0])
    assert {trunk for trial in found for trunk in trial.trunks} == {"vgg16", "googlenet_2014", "resnet50_v1"}
    for trial in found:
        with torch.device("meta"):
            build_network(
                trial.config.architecture(CamConfig(trial.cam.config.trunk, 15) if trial.cam else None),
                freeze=trial.config.freeze,
            )


def test_arguments() -> None:
    assert parse_seeds("0, 2") == (0, 2)
    for bad in ("", "0,0", "0,00", "-1", "a"):
        with pytest.raises(ConfigError, match="expected different whole numbers"):
            parse_seeds(bad)
    assert parse_weights(["a.safetensors", "resnet50=s3://b/r"]) == {"vgg16": "a.safetensors", "resnet50": "s3://b/r"}
    assert parse_weights(["timm/convnext_tiny=a/b", "a/b=c"]) == {"timm/convnext_tiny": "a/b", "vgg16": "a/b=c"}
    with pytest.raises(ConfigError, match="Did you mean 'resnet50'"):
        parse_weights(["resnet5=x"])
    with pytest.raises(ConfigError, match="Did you mean 'milk10k-cpu'"):
        PRESETS["milk10kcpu"]("paper15")
