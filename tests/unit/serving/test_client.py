import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response

from derm_ray.errors import ConfigError, ServingError
from derm_ray.serving.client import Client
from derm_ray.serving.problems import ApiError, add_problem_handlers
from derm_ray.serving.schemas import Model

MODEL = Model(
    model_digest="d", label_set="paper15", classes=["a", "b"], titles={}, tasks=[], network="triple", input_size=32, engine="torch",
    saliency=False, patient_fields=[], operating_points=[], metrics={}, card="# card",
)  # fmt: skip


@pytest.fixture
def served(free_port: int) -> Iterator[tuple[str, list[Response | Exception]]]:
    """A server that answers ``GET /v1/model`` with what the list holds, one after the other, then with a model."""
    answers: list[Response | Exception] = []
    app = FastAPI()
    add_problem_handlers(app)

    @app.get("/v1/model", response_model=None)
    async def model() -> Response | Model:
        if not answers:
            return MODEL
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    server = uvicorn.Server(uvicorn.Config(app, port=free_port, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{free_port}", answers
    server.should_exit = True
    thread.join()


def busy(seconds: str) -> ApiError:
    return ApiError(503, "busy", "All replicas are busy.", {"retry-after": seconds})


def test_a_busy_endpoint_is_asked_again_after_its_wait(served: tuple[str, list[Response | Exception]]) -> None:
    url, answers = served
    answers += [busy("0"), PlainTextResponse("busy", 503), busy("0")]
    began = time.perf_counter()
    with Client(url) as client:
        assert client.model() == MODEL
    assert 1 <= time.perf_counter() - began < 5
    answers += [busy("0")] * 4
    with (
        Client(url) as client,
        pytest.raises(ServingError, match=r"refused: All replicas are busy. \(busy, status 503\)"),
    ):
        client.model()


def test_refusals_and_strangers_are_one_message(served: tuple[str, list[Response | Exception]], free_port: int) -> None:
    url, answers = served
    with Client(url) as client:
        answers += [ApiError(401, "unauthorized", "Send a token.")]
        with pytest.raises(ServingError, match=r"refused: Send a token. \(unauthorized, status 401\)"):
            client.model()
        for strange in (PlainTextResponse("hello"), PlainTextResponse("no", 502), PlainTextResponse('{"a": 1}')):
            answers += [strange]
            with pytest.raises(ServingError, match="not a response of derm_ray"):
                client.model()
    with Client("http://127.0.0.1:1") as client, pytest.raises(ServingError, match="Check the address"):
        client.model()
    for wrong in ("nonsense", "ftp://host", "http://[::1", "", "http://", "http://" + "a" * 70):
        with pytest.raises((ConfigError, ServingError), match=r"address|URL"), Client(wrong) as client:
            client.model()


def test_a_token_is_stripped_and_never_quoted(served: tuple[str, list[Response | Exception]]) -> None:
    url, _ = served
    for token in ("secret-token\n", " \tsecret-token\r\n", "\u00a0secret-token", "", "\n", None):
        with Client(url, token) as client:
            sent = client._http.headers.get("authorization")
            assert sent == ("Bearer secret-token" if token and token.strip() else None)
            assert client.model() == MODEL
    for token in (
        "secret\ntoken",
        "s\u00e9cret-token",
        "\ufeffsecret-token",
        "secret token",
        "secret\0token",
        "id:secret-token",
    ):
        with pytest.raises(ConfigError) as raised:
            Client(url, token, token_name="DERM_RAY_TOKEN")
        assert str(raised.value).startswith("DERM_RAY_TOKEN is not a bearer token")
        assert "cret" not in str(raised.value)
