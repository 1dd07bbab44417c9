"""The application keeps what its OpenAPI document promises, whatever is sent to it."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from derm_ray.bundle import load_bundle
from derm_ray.serving import api
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.middleware import Checks
from derm_ray.serving.model import ServedModel
from derm_ray.serving.recorder import Recorder
from derm_ray.serving.tokens import new_token, parse_tokens

SECRET, LINE = new_token("tester")


@pytest.fixture(scope="session")
def contract(bundle_uri: str) -> schemathesis.BaseSchema:
    args = ServeArguments(model=bundle_uri, engine="torch", cpus=2)
    model = ServedModel(args, load_bundle(bundle_uri).model_digest, Recorder())
    app = api.create_app(model, Checks(parse_tokens(LINE, "tokens")))
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_every_answer_is_one_that_was_promised(contract: schemathesis.BaseSchema) -> None:
    paths, bearer = set(), {"Authorization": f"Bearer {SECRET}"}
    for found in contract.get_all_operations():
        operation = found.ok()
        paths.add(operation.path)

        @given(case=operation.as_strategy())
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def check(case: schemathesis.Case) -> None:
            # No schema tells what an image is: data that fits it may still be refused.
            case.call_and_validate(headers=bearer, excluded_checks=[positive_data_acceptance])

        check()
    assert paths == {"/healthz", "/readyz", "/v1/model", "/v1/score", "/v1/score-batch"}
