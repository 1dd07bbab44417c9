import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from derm_ray.data.manifest import Manifest, normalize_schema
from derm_ray.data.patient import CategoryField, NumberField, PatientEncoder
from derm_ray.data.patient_columns import PatientReader, fit_encoder, patient_pairs
from derm_ray.domain import Split
from derm_ray.errors import ConfigError, ManifestError

AGES = (30.0, 50.0)


def manifest(rows: int = 12, **columns: Any) -> Manifest:
    """Rows of split train, the last one of test; a column is a value for all, or a list."""
    values = {
        "lesion_id": [f"L{row}" for row in range(rows)],
        "clinical_uri": "a.jpg",
        "split": [*["train"] * (rows - 1), "test"],
        "age": [AGES[row % 2] for row in range(rows - 1)] + [90.0],
        "sex": [("Female", "male")[row % 2] for row in range(rows)],
        "site": ["trunk"] * 10 + ["toe"] * (rows - 10),
        **columns,
    }
    table = {name: of if isinstance(of, list) else [of] * rows for name, of in values.items()}
    return normalize_schema(pa.table(table), "m.csv")


def fit(*names: str, **columns: Any) -> PatientEncoder:
    whole = manifest(**columns)
    return fit_encoder(names, whole, whole.select(Split.TRAIN))


def test_scaling_and_categories_are_those_of_train() -> None:
    encoder = fit("age", "sex", "site", "monet_hair", monet_hair=[str(row / 10) for row in range(12)])
    age, sex, site, hair = encoder.fields
    assert isinstance(age, NumberField)
    assert (age.mean, age.low, age.high) == (pytest.approx(430 / 11), 0, 120)
    assert sex == CategoryField("sex", ("female", "male"))
    assert site == CategoryField("site", ("trunk",)), "a rare site counts as missing"
    assert isinstance(hair, NumberField)
    assert (hair.mean, hair.low, hair.high) == (pytest.approx(0.5), None, None)


def test_skin_tones_keep_their_scale() -> None:
    tones = {"skin_tone": [row % 5 for row in range(12)], "skin_tone_scale": "milk"}
    (field,) = fit("skin_tone", **tones).fields
    assert (field.low, field.high, field.scale) == (0, 5, "milk")  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match=r"skin_tone is on several scales \(milk, monk\) in split train"):
        fit("skin_tone", skin_tone=[row % 4 + 1 for row in range(12)], skin_tone_scale=["milk", "monk"] * 6)
    reader = PatientReader(PatientEncoder((field,)))
    _, problems = reader.read(manifest(skin_tone=3, skin_tone_scale=["milk"] * 11 + ["monk"]), first_row=100)
    assert problems == ["row 112: skin_tone is on the monk scale, the model's is milk. Convert it, or leave it empty"]


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (
            "agee",
            {},
            "m.csv: unknown patient_data column 'agee'. Did you mean 'age'? Known: age, sex, site, skin_tone.",
        ),
        ("diagnosis", {}, "column 'diagnosis' is not patient data. Use age, sex, site, skin_tone, or further columns"),
        ("skin_tone", {}, "column 'skin_tone' has no value in split train"),
        ("age", {"age": 45.0}, "column 'age' has the same value everywhere in split train"),
        ("site", {"site": [f"s{row}" for row in range(12)]}, "'site' has no value that 5 pairs of split train share"),
        ("site", {"site": None}, "column 'site' has no value in split train"),
    ],
)
def test_columns_that_cannot_be_used_are_named(name: str, columns: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fit(name, **columns)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "columns", "problem"),
    [
        ("camera", {"camera": ["1"] * 11 + ["X"]}, "row 12: column 'camera': 'X' is not a number"),
        ("camera", {"camera": [1.0] * 11 + [float("inf")]}, "row 12: column 'camera' is infinite"),
        ("camera", {"camera": [[1]] * 12}, "column 'camera' of type list"),
        ("age", {"age": [30.0] * 11 + [121.0]}, "row 12: age 121 is outside 0..120 years"),
        ("sex", {"sex": ["f"] * 12}, "unknown sex 'f'. Known: female, male, other."),
    ],
)
def test_values_that_cannot_be_used_are_named_by_row_and_column(
    name: str, columns: Mapping[str, Any], problem: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        fit(name, **columns)
    assert any(problem in line for line in caught.value.problems), caught.value.problems


def test_a_column_of_text_is_neither_offered_nor_one_problem_a_row() -> None:
    full = {"diagnosis_full": ["Nevus", None] * 6, "bmi_at_visit": ["21.5", ""] * 6, "notes": None}
    with pytest.raises(ConfigError) as unknown:
        fit("bmi", **full)
    assert str(unknown.value).endswith("Known: age, sex, site, skin_tone, bmi_at_visit.")
    with pytest.raises(ManifestError) as caught:
        fit("diagnosis_full", **full)
    assert caught.value.problems == (
        "row 1: column 'diagnosis_full': 'Nevus' is not a number, nor is any other of its values. Give a column of "
        "numbers",
    )


def test_pairs_carry_what_the_model_uses_and_no_more(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("derm_ray"), "propagate", True)
    encoder = fit("age", "site", "monet_hair", monet_hair=[row / 10 for row in range(12)])
    ages = [*[45.0] * 11, None]
    pairs = patient_pairs(manifest(age=ages), encoder)
    assert pairs[0].patient == {"age": 45.0, "site": "trunk"}
    assert pairs[11].patient == {}, "neither age nor a known site"
    assert "no lesion has monet_hair, which the model uses; it counts as missing" in caplog.text
    assert "the model does not know 2 values of site, counted as missing: 'toe' (2)" in caplog.text
    assert all(pair.patient == {} for pair in patient_pairs(manifest(), None))


def test_rows_of_a_part_keep_their_numbers() -> None:
    encoder = fit("hair", hair=[row / 10 for row in range(12)])
    whole = manifest(hair=["1"] * 11 + ["thick"])
    with pytest.raises(ManifestError) as caught:
        patient_pairs(whole.select(Split.TEST), encoder, whole)
    assert caught.value.problems == ("row 12: column 'hair': 'thick' is not a number",)
