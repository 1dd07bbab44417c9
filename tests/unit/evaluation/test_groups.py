"""Lesions with both images, with a clinical photo alone and with dermoscopy alone are evaluated apart."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.loading import load_all
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, Calibration, Modality, PredictionKind
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.evaluate import compute_metrics, evaluate
from derm_ray.evaluation.evaluation import Evaluation
from derm_ray.evaluation.out_of_fold import evaluate_out_of_fold
from derm_ray.evaluation.report import size_text, summary_text, write_evaluation
from derm_ray.evaluation.stored_predictions import joined, read_predictions, write_predictions
from derm_ray.inference.predictor import Predictor, temper
from derm_ray.models.factory import NetworkConfig
from tests.conftest import seal_untrained, take
from tests.unit.evaluation.test_out_of_fold import PROVENANCE, fold

CLINICAL, DERMOSCOPY = slice(0, None, 4), slice(1, None, 4)
"""Rows with that image alone."""


def halved(pairs: Manifest, count: int = 40) -> Manifest:
    """Return a test set of which a quarter has a clinical photo alone, and another quarter dermoscopy alone."""
    few = take(pairs, count).absolute().with_column("split", ["test"] * count)
    uris = {name: few.column(name) for name in ("clinical_uri", "dermoscopy_uri")}
    uris["dermoscopy_uri"][CLINICAL] = [None] * (count // 4)
    uris["clinical_uri"][DERMOSCOPY] = [None] * (count // 4)
    return few.with_column("clinical_uri", uris["clinical_uri"]).with_column("dermoscopy_uri", uris["dermoscopy_uri"])


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    generator = np.random.default_rng(0)
    probabilities = {kind: generator.dirichlet(np.ones(15), 60).astype(np.float32) for kind in PredictionKind}
    calibration = fit_calibration(PAPER15, np.arange(60) % 15, probabilities)
    uri = str(tmp_path_factory.mktemp("bundles") / "m")
    return Predictor(load_bundle(seal_untrained(uri, NetworkConfig(trunk="tiny"), calibration=calibration)), "torch")


@pytest.fixture(scope="module")
def evaluation(predictor: Predictor, pairs: Manifest) -> Evaluation:
    return evaluate(predictor, halved(pairs), resamples=5, against=predictor)


def test_each_group_has_its_own_lesions_and_metrics(
    predictor: Predictor, pairs: Manifest, evaluation: Evaluation
) -> None:
    manifest = halved(pairs)
    spec = predictor.bundle.preprocessing
    found = [one for part in load_all(manifest.pairs(), spec, "m") for one in predictor.predict(part)]
    labels = np.array([PAPER15.class_names.index(str(name)) for name in manifest.column("diagnosis")])
    rows = np.arange(40)
    of = {
        "both images": np.setdiff1d(rows, np.concatenate([rows[CLINICAL], rows[DERMOSCOPY]])),
        "clinical alone": rows[CLINICAL],
        "dermoscopy alone": rows[DERMOSCOPY],
    }
    assert list(evaluation.groups) == list(of)
    for name, group in evaluation.groups.items():
        own = of[name]
        assert (group.pairs, group.lesions) == (len(own), len(own))
        assert sum(group.support.values()) == len(own)
        assert sum(group.task_sizes["cancer"]) == len(own)
        kinds = tuple(PredictionKind) if name == "both images" else (PredictionKind(name.split()[0]),)
        assert tuple(group.kinds) == tuple(group.differences) == kinds
        for kind in kinds:
            values = np.array([found[row].per_input_predictions[kind] for row in own])
            expected = compute_metrics(PAPER15, labels[own], values)
            for metric in ("accuracy", "macro_auroc", "cancer/auroc"):
                assert group.kinds[kind].metrics[metric].value == pytest.approx(expected[metric], nan_ok=True)
            assert group.kinds[kind].confusion.sum() == len(own)
            assert {i.value for i in group.differences[kind].values() if np.isfinite(i.value)} == {0.0}


def test_the_groups_are_in_json_text_and_page(evaluation: Evaluation, tmp_path: Path) -> None:
    json_uri, html_uri = write_evaluation(evaluation, str(tmp_path))
    values = json.loads(Path(json_uri).read_text())
    assert (values["pairs"], values["alone"]["clinical"]["lesions"]) == (20, 10)
    assert set(values["alone"]["dermoscopy"]["predictions"]) == {"dermoscopy"}
    assert set(values["predictions"]) == set(PredictionKind)
    assert size_text(evaluation) == (
        "20 pairs (20 lesions), 10 lesions with clinical alone, 10 lesions with dermoscopy alone"
    )
    text, page = summary_text(evaluation), Path(html_uri).read_text()
    assert "\nclinical alone, 10 lesions\n" in text
    assert "\ndermoscopy alone, cancer: a threshold of" in text
    for heading in (
        "Metrics: lesions with both images",
        "Metrics: lesions with clinical alone",
        "Confusion of the cross",
    ):
        assert f"<h2>{heading}" in page
    assert "<td>dermoscopy alone</td><td>cancer</td>" in page


def test_a_single_modality_has_a_whole_report(predictor: Predictor, pairs: Manifest, tmp_path: Path) -> None:
    manifest = halved(pairs).with_column("clinical_uri", [None] * 40)
    manifest = manifest.where([uri is not None for uri in manifest.column("dermoscopy_uri")])
    found = evaluate(predictor, manifest, resamples=5)
    assert (found.pairs, found.kinds, list(found.alone)) == (0, {}, [Modality.DERMOSCOPY])
    assert found.alone[Modality.DERMOSCOPY].lesions == 30
    assert size_text(found) == "30 lesions with dermoscopy alone"
    assert summary_text(found).startswith("dermoscopy alone, 30 lesions\n")
    json_uri, html_uri = write_evaluation(found, str(tmp_path))
    assert json.loads(Path(json_uri).read_text())["predictions"] == {}
    page = Path(html_uri).read_text()
    assert page.count("<h2>Metrics") == 1
    assert "Confusion of the dermoscopy prediction" in page
    assert page.count("<svg") == 3


def test_out_of_fold_predictions_are_grouped_as_well(bundle_uri: str, tmp_path: Path) -> None:
    parts = [fold(seed) for seed in range(3)]
    for part in parts:
        part.scores[PredictionKind.DERMOSCOPY][CLINICAL] = np.nan
        part.scores[PredictionKind.CROSS][CLINICAL] = np.nan
    write_predictions(joined(parts), str(tmp_path / "p.parquet"))
    held = read_predictions(str(tmp_path / "p.parquet"))
    assert np.isnan(held.scores[PredictionKind.CROSS][CLINICAL]).all()
    bundle = replace(load_bundle(bundle_uri), provenance=PROVENANCE, calibration=Calibration())
    found = evaluate_out_of_fold(held, bundle, resamples=5)
    assert (found.pairs, list(found.alone), found.alone[Modality.CLINICAL].pairs) == (270, [Modality.CLINICAL], 90)
    kind = PredictionKind.CLINICAL
    nll = []
    for index, part in enumerate(parts):
        others = joined([other for at, other in enumerate(parts) if at != index])
        temperature = fit_calibration(PAPER15, others.labels, others.scores).temperatures[kind]
        rows = np.arange(120)[CLINICAL]
        nll.append(-np.log(temper(part.scores[kind][rows], temperature)[np.arange(30), part.labels[rows]]))
    assert found.alone[Modality.CLINICAL].kinds[kind].reliability.nll == pytest.approx(
        np.concatenate(nll).mean(), rel=1e-5
    )
