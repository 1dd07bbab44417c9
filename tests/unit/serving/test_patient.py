"""Patient data in requests."""

import json
import threading
import time
from base64 import b64encode

import pytest
import uvicorn

from derm_ray.bundle import load_bundle
from derm_ray.domain import Modality
from derm_ray.errors import ConfigError
from derm_ray.serving import api
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.client import Client as HttpClient
from derm_ray.serving.model import ServedModel
from derm_ray.serving.recorder import Recorder
from tests.unit.serving.conftest import Client

KNOWN = "Known: age, sex, site."


@pytest.fixture(scope="module")
def asking(patient_bundle_uri: str) -> Client:
    arguments = ServeArguments(model=patient_bundle_uri, engine="torch", cpus=2)
    return Client(api.create_app(ServedModel(arguments, load_bundle(patient_bundle_uri).model_digest, Recorder())))


def test_it_is_optional_and_changes_the_answer(asking: Client, files: dict[str, bytes]) -> None:
    bare = asking("POST", "/v1/score", files=files).json()
    given = asking("POST", "/v1/score", files=files, data={"patient": '{"age": 80, "sex": "Female"}'}).json()
    assert given["probabilities"] != bare["probabilities"]
    for nothing in ("{}", '{"age": null}'):
        same = asking("POST", "/v1/score", files=files, data={"patient": nothing}).json()
        assert same["probabilities"] == pytest.approx(bare["probabilities"], abs=1e-6)
    encoded = {name: b64encode(data).decode() for name, data in files.items()}
    pairs = [encoded, {**encoded, "patient": {"age": 80, "sex": "female"}}, {**encoded, "patient": {"age": 121}}]
    first, second, third = asking("POST", "/v1/score-batch", json={"pairs": pairs}).json()["results"]
    assert first["score"]["probabilities"] == pytest.approx(bare["probabilities"], abs=1e-6)
    assert second["score"]["probabilities"] == pytest.approx(given["probabilities"], abs=1e-6)
    assert (third["score"], third["problem"]["code"]) == (None, "invalid_request")


@pytest.mark.parametrize(
    ("patient", "told"),
    [
        ('{"agee": 45}', f"patient: unknown patient field 'agee'. Did you mean 'age'? {KNOWN}"),
        ('{"<b>": 45}', f"patient: unknown patient field. {KNOWN}"),
        ('{"site": "<b>"}', "patient field 'site': expected one of head_neck_face, trunk. Leave it out"),
        ('{"age": NaN}', "patient field 'age': expected a number from 0 to 120."),
        ('{"age": [1]}', "patient field 'age': expected a number from 0 to 120."),
        ('{"age": 4, "age": 5}', "field 'age' is repeated. Send it once."),
        ("[1]", "patient: not a JSON object, such as"),
        ("age=45", "patient: not a JSON object, such as"),
        ("[" * 9999, "patient: not a JSON object, such as"),
        ('{"age": 1}' + " " * 10_000, "patient: String should have at most 10000 characters"),
    ],
)
def test_what_the_model_does_not_know_is_refused(
    asking: Client, files: dict[str, bytes], patient: str, told: str
) -> None:
    response = asking("POST", "/v1/score", files=files, data={"patient": patient})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert told in response.json()["detail"]
    assert "<b>" not in response.text


def test_a_model_without_patient_data_refuses_it(client: Client, files: dict[str, bytes]) -> None:
    response = client("POST", "/v1/score", files=files, data={"patient": '{"age": 45}'})
    assert (response.status_code, response.json()["detail"]) == (
        422,
        "patient: this model uses no patient data. Leave it out.",
    )
    assert client("GET", "/v1/model").json()["patient_fields"] == []


def test_the_client_sends_it_with_one_pair_and_with_several(
    asking: Client, files: dict[str, bytes], free_port: int
) -> None:
    server = uvicorn.Server(uvicorn.Config(asking.app, port=free_port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    images = {Modality(name): data for name, data in files.items()}
    known: dict[str, float | str] = {"age": 80, "sex": "female"}
    try:
        with HttpClient(f"http://127.0.0.1:{free_port}") as client:
            bare, given = client.score(**files), client.score(**files, patient=known)
            found = client.score_batch([images, images, images], patients=[known, {}, {"age": 121}])
            (without,) = client.score_batch([images])
            with pytest.raises(ConfigError, match=r"patients: 1 for 2 pairs\. Give one for each pair"):
                client.score_batch([images, images], patients=[known])
    finally:
        server.should_exit = True
        thread.join()
    assert bare.probabilities != pytest.approx(given.probabilities, abs=1e-3)
    for result, expected in zip([*found[:2], without], (given, bare, bare), strict=True):
        assert result.score is not None
        assert result.score.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert found[2].problem is not None
    assert "'age'" in found[2].problem.detail


def test_the_fields_are_described(asking: Client) -> None:
    age, sex, _ = asking("GET", "/v1/model").json()["patient_fields"]
    assert age == {"name": "age", "kind": "number", "values": [], "low": 0, "high": 120, "scale": None}
    assert (sex["kind"], sex["values"]) == ("category", ["female", "male"])
    schemas = asking("GET", "/openapi.json").json()["components"]["schemas"]
    assert "Leave out what is unknown" in json.dumps(schemas["Pair"]["properties"]["patient"])
    (form,) = (of for name, of in schemas.items() if name.startswith("Body_score"))
    assert "patient_fields" in form["properties"]["patient"]["description"]
