import json

import numpy as np
import pytest

from derm_ray.data.patient import CategoryField, NumberField, PatientEncoder
from derm_ray.errors import ConfigError

ENCODER = PatientEncoder(
    (
        NumberField("age", 50, 20, 0, 120),
        CategoryField("sex", ("female", "male")),
        NumberField("skin_tone", 3, 1, 0, 5, "milk"),
        NumberField("monet_hair_clinical", 0.5, 0.1),
    )
)


def test_vectors_hold_values_and_whether_they_are_given() -> None:
    assert ENCODER.width == 9
    assert ENCODER.spans["sex"] == slice(2, 5)
    full = {"age": 70.0, "sex": "male", "skin_tone": 2.0, "monet_hair_clinical": 99.0, "camera": 3.0}
    vectors = ENCODER.encode([full, {}, {"sex": "other"}])
    assert vectors.dtype == np.float32
    assert vectors[0].tolist() == [1, 1, 0, 1, 1, -1, 1, 5, 1], "outliers are cut at five deviations"
    assert not vectors[1:].any(), "what is missing, or not known, is zeros"


def test_json_holds_the_whole_encoding() -> None:
    assert PatientEncoder.from_json(json.loads(json.dumps(ENCODER.to_json()))) == ENCODER


def test_values_from_outside_come_to_their_one_form() -> None:
    given = {"age": "45", "sex": " Male ", "skin_tone": 2, "monet_hair_clinical": None}
    assert ENCODER.check(given) == {"age": 45.0, "sex": "male", "skin_tone": 2.0}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"agee": 1}, "unknown patient field 'agee'. Did you mean 'age'? Known: age, sex, skin_tone, monet_hair_clinical."),
        ({"<b>": 1}, "unknown patient field. Known: age, sex, skin_tone, monet_hair_clinical."),
        ({"age": 121}, "patient field 'age': expected a number from 0 to 120. Leave it out where it is unknown."),
        ({"age": "old"}, "patient field 'age': expected a number from 0 to 120."),
        ({"age": True}, "patient field 'age': expected a number"),
        ({"age": float("nan")}, "patient field 'age': expected a number"),
        ({"age": 10**400}, "patient field 'age': expected a number"),
        ({"monet_hair_clinical": "inf"}, "patient field 'monet_hair_clinical': expected a number."),
        ({"skin_tone": 6}, "patient field 'skin_tone': expected a number from 0 to 5 of the milk scale."),
        ({"sex": "unknown"}, "patient field 'sex': expected one of female, male. Leave it out"),
        ({"sex": 1, "age": -1}, "is unknown; patient field 'age'"),
    ],
)  # fmt: skip
def test_unknown_fields_and_values_are_refused_and_not_quoted(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ENCODER.check(given)
    assert message in str(caught.value)
