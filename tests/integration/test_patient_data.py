"""A model that uses patient data answers alike in evaluation, in bulk and online, without Ray."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from derm_ray.bundle import load_bundle
from derm_ray.cli import app
from derm_ray.data.locations import Locations
from derm_ray.data.manifest import Manifest
from derm_ray.data.patient_columns import patient_pairs
from derm_ray.domain import Modality, PredictionKind, Split
from derm_ray.errors import ManifestError, OutputExistsError
from derm_ray.evaluation.evaluate import _predict, evaluate
from derm_ray.evaluation.report import render_html, summary_text
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring import plan
from derm_ray.scoring.ledger import Run, RunDescription, open_run
from derm_ray.scoring.scorer import ShardScorer
from derm_ray.serving import api
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.model import ServedModel
from derm_ray.serving.recorder import Recorder
from derm_ray.storage import read_bytes
from tests.conftest import take
from tests.inputs import MemoryInput
from tests.unit.serving.conftest import Client

EXACT = 1e-5


@pytest.fixture
def few(pairs: Manifest) -> Manifest:
    """Twelve pairs, the first without an age."""
    some = take(pairs.absolute(), 12)
    ages = some.table["age"].to_pylist()
    return some.with_column("age", [None, *ages[1:]])


def opened(manifest: Manifest, uri: str, out: Path) -> Run:
    bundle = load_bundle(uri)
    source = MemoryInput(manifest)
    description = RunDescription(bundle.model_digest, "paper15", "torch", False, False, "parquet", 5)
    locations = Locations(source.uri)
    return open_run(str(out), source, description, locations, source.fingerprint(), bundle)


def scored(manifest: Manifest, uri: str, out: Path) -> np.ndarray:
    run = opened(manifest, uri, out)
    scorer = ShardScorer(uri, "torch", run.out_uri, run.description, batch_size=4)
    for shard in run.missing():
        scorer.score(shard)
    rows = {row["pair_id"]: row for row in pq.read_table(run.out_uri).to_pylist()}
    names = load_bundle(uri).label_set.class_names
    return np.array([[rows[pair_id][f"p_{name}"] for name in names] for pair_id in manifest.column("pair_id")])


def test_evaluation_bulk_and_online_agree(few: Manifest, patient_bundle_uri: str, tmp_path: Path) -> None:
    bundle = load_bundle(patient_bundle_uri)
    names = bundle.label_set.class_names
    lesions = patient_pairs(few, bundle.patient)
    assert "age" not in lesions[0].patient
    assert {len(lesion.patient) for lesion in lesions[1:]} == {2, 3}, "lower extremities are not known"
    evaluated = _predict(Predictor(bundle, "torch"), lesions, few.uri)[0][PredictionKind.CROSS]
    assert np.allclose(evaluated, scored(few, patient_bundle_uri, tmp_path / "bulk"), atol=EXACT)
    model = ServedModel(ServeArguments(model=patient_bundle_uri, engine="torch"), bundle.model_digest, Recorder())
    client, answers = Client(api.create_app(model)), []
    for lesion in lesions:
        files = {str(m): read_bytes(str(lesion.uri(m))) for m in Modality}
        data = {"patient": json.dumps(dict(lesion.patient))}
        answers.append(client("POST", "/v1/score", files=files, data=data).json()["probabilities"])
    online = np.array([[answer[name] for name in names] for answer in answers])
    assert np.allclose(evaluated, online, atol=EXACT)
    options = [f"--{m}={lesions[1].uri(m)}" for m in Modality]
    options += [f"--patient={name}={value}" for name, value in lesions[1].patient.items()]
    command = ["score-one", "--model", patient_bundle_uri, "--engine", "torch", "--json", *options]
    alone = json.loads(CliRunner().invoke(app, command).stdout)["probabilities"]
    assert np.allclose(evaluated[1], [alone[name] for name in names], atol=EXACT)


def test_bulk_without_the_columns_says_so_and_counts_them_as_missing(
    few: Manifest, patient_bundle_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(plan.logger, "warning", lambda _, __, line: said.append(line))
    bare = few
    for name in ("age", "sex", "site"):
        bare = bare.with_column(name, [None] * len(few))
    found = scored(bare, patient_bundle_uri, tmp_path / "bare")
    assert said == ["patient data: no lesion has age, sex, site, which the model uses; it counts as missing"]
    predicted, _ = _predict(Predictor(load_bundle(patient_bundle_uri), "torch"), bare.pairs(), bare.uri)
    assert np.allclose(found, predicted[PredictionKind.CROSS], atol=EXACT)
    with pytest.raises(OutputExistsError, match="input digest"):
        opened(few, patient_bundle_uri, tmp_path / "bare")


def test_bulk_refuses_values_that_do_not_exist(few: Manifest, patient_bundle_uri: str, tmp_path: Path) -> None:
    wrong = few.with_column("age", [*[50.0] * 11, 150.0]).with_column("sex", ["f", *few.column("sex")[1:]])
    with pytest.raises(ManifestError) as caught:
        opened(wrong, patient_bundle_uri, tmp_path / "out")
    assert caught.value.problems == (
        "row 1: unknown sex 'f'. Known: female, male, other.",
        "row 12: age 150 is outside 0..120 years",
    )


def test_evaluation_reports_both_with_and_without(pairs: Manifest, patient_bundle_uri: str, bundle_uri: str) -> None:
    evaluation = evaluate(Predictor(load_bundle(patient_bundle_uri), "torch"), pairs, Split.VAL, resamples=10)
    values = evaluation.to_json()
    assert set(values["predictions"]) == set(values["predictions_without_patient_data"])
    assert values["predictions"] != values["predictions_without_patient_data"]
    assert "\nwithout patient data\n" in summary_text(evaluation)
    assert "Metrics without patient data" in render_html(evaluation)
    plain = evaluate(Predictor(load_bundle(bundle_uri), "torch"), pairs, Split.VAL, resamples=10)
    assert "predictions_without_patient_data" not in plain.to_json()
    assert "without patient data" not in summary_text(plain) + render_html(plain)


def test_score_one_refuses_what_the_model_does_not_know(
    few: Manifest, patient_bundle_uri: str, bundle_uri: str
) -> None:
    photo = str(few.pairs()[0].clinical_uri)
    for uri, given, told in (
        (patient_bundle_uri, "agee=1", "unknown patient field 'agee'. Did you mean 'age'? Known: age, sex, site."),
        (patient_bundle_uri, "sex=x", "patient field 'sex': expected one of female, male."),
        (patient_bundle_uri, "age", "--patient 'age': expected KEY=VALUE, such as age=45."),
        (bundle_uri, "age=45", "this model uses no patient data. Leave it out."),
    ):
        result = CliRunner().invoke(app, ["score-one", "--model", uri, "--clinical", photo, "--patient", given])
        assert result.exit_code != 0
        assert told in str(result.exception)
