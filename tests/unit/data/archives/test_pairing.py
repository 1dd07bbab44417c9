from dataclasses import asdict

import pytest

from derm_ray.data.archives.pairing import DEFAULT_RULE, PairingRule
from derm_ray.domain import Modality
from derm_ray.errors import ConfigError

CLINICAL, DERMOSCOPY = Modality


def test_the_default_takes_a_folder_per_lesion_and_webdataset() -> None:
    assert DEFAULT_RULE.match("a/b/clinical.jpg") == {CLINICAL: {"lesion_id": "a/b"}}
    assert DEFAULT_RULE.match("00001.dermoscopy.png") == {DERMOSCOPY: {"lesion_id": "00001"}}
    assert DEFAULT_RULE.match("clinical.jpg") == {}
    assert DEFAULT_RULE.match("a/clinical") == {}
    assert DEFAULT_RULE.match("a/Clinical.jpg") == {}


def test_fields_stop_at_folders_unless_they_are_paths() -> None:
    rule = PairingRule("x/{patient}/{lesion:path}_*.jpg", "y/{patient}/{lesion:path}.png")
    assert rule.match("x/p/a/b_1.JPG") == {CLINICAL: {"patient_id": "p", "lesion_id": "a/b"}}
    assert rule.match("x/p/q/b_/1.jpg") == {}
    assert rule.match("X/p/a_1.jpg") == {}


def test_everything_else_stands_for_itself() -> None:
    rule = PairingRule("c[1]+(a|b).{lesion}.jpg", ())
    assert rule.match("c[1]+(a|b).x.jpg") == {CLINICAL: {"lesion_id": "x"}}
    assert rule.match("c1+a.x.jpg") == {}


def test_a_field_that_stands_twice_is_the_same_text() -> None:
    rule = PairingRule("{lesion}/{lesion}_c.jpg", ())
    assert rule.match("a/a_c.jpg")
    assert not rule.match("a/b_c.jpg")


def test_a_rule_can_be_written_down_and_several_patterns_tried() -> None:
    rule = PairingRule(["{pair}.c.jpg", "c/{pair}.jpg"], ["{pair}.d.jpg"])
    assert PairingRule(**asdict(rule)) == rule
    assert rule.match("c/1.jpg") == {CLINICAL: {"pair_id": "1"}}


@pytest.mark.parametrize(
    ("clinical", "dermoscopy", "problem"),
    [
        ((), (), "no pattern given"),
        ("clinical/*.jpg", (), r"has no \{lesion\} or \{pair\}; write it like"),
        ("{lesion}.jpg", "{lesion}/{site}.jpg", "have different fields"),
        ("{lesion", (), "write a field as"),
        ("lesion}", (), "write a field as"),
        ("{}", (), "write a field as"),
        ("{Lesion}", (), "write a field as"),
        ("{lesion:x}", (), "write a field as"),
        ("{lesion}{clinical_uri}", (), "set from the files themselves"),
    ],
)
def test_a_wrong_pattern_is_one_message(clinical: str, dermoscopy: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        PairingRule(clinical, dermoscopy)
