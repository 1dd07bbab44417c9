import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.domain import PAPER15, PredictionKind, Split, label_set
from derm_ray.errors import ConfigError, ManifestError, OutputExistsError
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.evaluation.evaluation import Evaluation
from derm_ray.evaluation.metrics import METRICS, Metric, metric_names
from derm_ray.evaluation.report import summary_text, write_evaluation
from derm_ray.inference.predictor import Predictor
from derm_ray.models.factory import NetworkConfig
from tests.conftest import seal_untrained


@pytest.fixture(scope="module")
def evaluation(bundle_uri: str, pairs: Manifest) -> Evaluation:
    return evaluate(Predictor(load_bundle(bundle_uri), "torch"), pairs, Split.VAL, resamples=20)


def test_everything_is_there_in_json(evaluation: Evaluation, tmp_path: Path) -> None:
    json_uri, _ = write_evaluation(evaluation, str(tmp_path))
    read = json.loads(Path(json_uri).read_text())
    assert set(read["predictions"]) == set(PredictionKind)
    cross = read["predictions"]["cross"]["metrics"]
    for name in (*metric_names(("cancer", "melanoma")), "auroc/melanoma"):
        assert cross[name]["low"] <= cross[name]["value"] <= cross[name]["high"], name
    assert sum(map(sum, read["predictions"]["cross"]["confusion"])) == read["pairs"]
    assert read["majority_class"]["cancer/auroc"] == 0.5
    assert read["grouping"] == "lesion"


def test_the_page_is_well_formed_and_loads_nothing(evaluation: Evaluation, tmp_path: Path) -> None:
    _, html_uri = write_evaluation(evaluation, str(tmp_path))
    page = Path(html_uri).read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](https?:)?//""", page)
    assert "@import" not in page
    assert page.count("<svg") == 3
    shown = re.search(r'<table class="confusion">(.*?)</table>', page, re.DOTALL)
    assert shown is not None
    counts = evaluation.kinds[PredictionKind.CROSS].confusion
    assert sorted(map(int, re.findall(r">(\d+)</td>", shown[1]))) == sorted(counts[counts > 0].tolist())
    assert "not a medical device" in page
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert tags.count("h2") == 6


def test_another_models_report_is_not_overwritten(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(evaluation, str(tmp_path))
    write_evaluation(evaluation, str(tmp_path))
    other = replace(evaluation, provenance=evaluation.provenance | {"model_digest": "other"})
    with pytest.raises(OutputExistsError, match="another model_digest"):
        write_evaluation(other, str(tmp_path))


def test_the_terminal_table_lines_up(evaluation: Evaluation) -> None:
    lines = summary_text(evaluation).splitlines()
    assert len({line.index("(") for line in lines[1:] if ")" in line and not line.startswith("warning")}) == 1


def test_a_model_is_compared_with_another_on_the_same_lesions(
    bundle_uri: str, pairs: Manifest, evaluation: Evaluation, tmp_path: Path
) -> None:
    mine = Predictor(load_bundle(bundle_uri), "torch")
    itself = evaluate(mine, pairs, Split.VAL, resamples=20, against=mine)
    for metrics in itself.differences.values():
        assert {(i.value, i.low, i.high) for i in metrics.values()} == {(0.0, 0.0, 0.0)}
    other = load_bundle(seal_untrained(str(tmp_path / "other"), NetworkConfig("sole", "tiny", "gap", 15), seed=7))
    compared = evaluate(mine, pairs, Split.VAL, resamples=20, against=Predictor(other, "torch"))
    theirs = evaluate(Predictor(other, "torch"), pairs, Split.VAL, resamples=20)
    for kind, metrics in compared.differences.items():
        for name, interval in metrics.items():
            first, second = (one.kinds[kind].metrics[name].value for one in (evaluation, theirs))
            assert interval.value == pytest.approx(first - second)
            assert interval.low <= interval.value <= interval.high
    json_uri, html_uri = write_evaluation(compared, str(tmp_path / "out"))
    assert json.loads(Path(json_uri).read_text())["differences"]["cross"]["accuracy"]["low"] is not None
    assert "Difference to the other model" in Path(html_uri).read_text()
    assert "difference to the other model" in summary_text(compared)
    with pytest.raises(OutputExistsError, match="another against"):
        write_evaluation(evaluation, str(tmp_path / "out"))


def test_models_of_other_diagnoses_are_not_compared(bundle_uri: str, pairs: Manifest, tmp_path: Path) -> None:
    uri = seal_untrained(
        str(tmp_path / "other"), NetworkConfig("sole", "tiny", "gap", 11), label_set=label_set("milk10k")
    )
    mine, other = (Predictor(load_bundle(one), "torch") for one in (bundle_uri, uri))
    with pytest.raises(ConfigError, match=r"label set milk10k, this one's is paper15\. Compare models"):
        evaluate(mine, pairs, Split.VAL, against=other)


def test_an_empty_split_and_unreadable_images_are_one_message(bundle_uri: str, pairs: Manifest) -> None:
    predictor = Predictor(load_bundle(bundle_uri), "torch")
    unsplit = pairs.with_column("split", [None] * len(pairs))
    with pytest.raises(ConfigError, match="derm-ray data split"):
        evaluate(predictor, unsplit)
    broken = pairs.absolute().with_column("clinical_uri", [f"/nowhere/{i}.jpg" for i in range(len(pairs))])
    with pytest.raises(ManifestError, match="not found"):
        evaluate(predictor, broken, Split.VAL)


def test_exchanged_images_exchange_the_single_predictions_of_a_share_net(
    bundle_uri: str, pairs: Manifest, evaluation: Evaluation
) -> None:
    swapped = evaluate(Predictor(load_bundle(bundle_uri), "torch"), pairs, Split.VAL, resamples=2, swapped=True)
    assert swapped.provenance["images"] == "swapped"
    kinds = (PredictionKind.CLINICAL, PredictionKind.DERMOSCOPY)
    for first, second in (kinds, kinds[::-1]):
        for name in ("accuracy", "macro_auroc"):
            here, there = swapped.kinds[first].metrics[name].value, evaluation.kinds[second].metrics[name].value
            assert here == pytest.approx(there, abs=1e-9)


def test_one_class_and_rows_without_a_diagnosis_are_said_in_words(
    tmp_path_factory: pytest.TempPathFactory, pairs: Manifest, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    probabilities = {kind: generator.dirichlet(np.ones(15), 60).astype(np.float32) for kind in PredictionKind}
    calibration = fit_calibration(PAPER15, np.arange(60) % 15, probabilities)
    uri = str(tmp_path_factory.mktemp("bundles") / "calibrated")
    predictor = Predictor(
        load_bundle(seal_untrained(uri, NetworkConfig(trunk="tiny"), calibration=calibration)), "torch"
    )
    one = pairs.where([name == "melanoma" for name in pairs.column("diagnosis")])
    one = one.with_column("split", ["test"] * len(one))
    measured = evaluate(predictor, one, resamples=2)
    text = summary_text(measured)
    assert "specificity not defined (no negatives in this split)" in text
    assert "A metric is not defined without enough pairs" in text
    assert "warning: test has " in text
    assert re.search(r"none of actinic_keratosis, .*\. What is learned or measured of so few is mostly chance\.", text)
    json_uri, html_uri = write_evaluation(measured, str(tmp_path))
    assert json.loads(Path(json_uri).read_text())["predictions"]["cross"]["operating_points"][0]["specificity"] is None
    page = Path(html_uri).read_text()
    assert "<td>not defined</td>" in page
    assert f"Warning: {measured.warnings[0]}" in page
    for written in (text, page):
        assert not re.search(r"\bnan\b", written)
    bare = one.with_column("diagnosis", [None, *one.column("diagnosis")[1:]])
    with pytest.raises(ManifestError, match="row 1: diagnosis is empty; evaluation needs one"):
        evaluate(predictor, bare)


def test_a_registered_metric_is_in_the_evaluation_and_its_reports(
    bundle_uri: str, pairs: Manifest, tmp_path: Path, registered: Callable[..., None]
) -> None:
    def sure(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ probabilities[np.arange(len(labels)), labels] / weights.sum(1)

    registered(METRICS, "sureness", Metric("Sureness", sure))
    model = load_bundle(bundle_uri)
    found = evaluate(Predictor(model, "torch"), pairs, Split.VAL, resamples=5)
    json_uri, html_uri = write_evaluation(found, str(tmp_path))
    value = json.loads(Path(json_uri).read_text())["predictions"]["cross"]["metrics"]["sureness"]
    assert value["low"] <= value["value"] <= value["high"]
    assert "<td>Sureness</td>" in Path(html_uri).read_text()
    assert "Sureness" in summary_text(found)
