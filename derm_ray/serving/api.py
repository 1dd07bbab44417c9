"""HTTP in, predictions out; it knows neither Ray nor torch."""

import http
import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from derm_ray import RESEARCH_NOTICE, __version__
from derm_ray.data.preprocessing import PairPixels, Preprocessing, pixels_from_bytes
from derm_ray.errors import ImageError
from derm_ray.serving.schemas import Model, Problem, Score, to_score
from derm_ray.vocabulary import Prediction, label_set

logger = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 25_000_000
MAX_BODY_BYTES = 2 * MAX_IMAGE_BYTES + 100_000
PROBLEM_JSON = "application/problem+json"

Scorer = Callable[[PairPixels], Awaitable[Prediction]]
Upload = Annotated[UploadFile | None, File(description="An encoded image, such as JPEG or PNG.")]


class ApiError(Exception):
    """A refusal with its status and stable code."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(detail)


def create_app(score_pair: Scorer, model: Model, spec: Preprocessing) -> FastAPI:
    """Return the application.

    Args:
        score_pair: answers for one preprocessed pair.
        model: what ``GET /v1/model`` tells.
        spec: how images are prepared.
    """
    app = FastAPI(title="derm_ray", version=__version__, description=RESEARCH_NOTICE, docs_url=None, redoc_url=None)
    labels = label_set(model.label_set)
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "content": {PROBLEM_JSON: {}}} for status in (400, 413, 422)
    }

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Tell that the endpoint answers."""
        return {"status": "ok"}

    @app.get("/v1/model")
    async def get_model() -> Model:
        """Tell which model answers."""
        return model

    @app.post("/v1/score", responses=problems)
    async def score(
        clinical: Upload = None,
        dermoscopy: Upload = None,
        pair_id: Annotated[str | None, Form(max_length=256)] = None,
    ) -> Score:
        """Score one lesion: a clinical photo, a dermoscopy image, or better both."""
        images = [await _read(upload) for upload in (clinical, dermoscopy)]
        if images == [None, None]:
            raise ApiError(400, "no_image", "Send a file in 'clinical', in 'dermoscopy', or in both.")
        try:
            pixels = await run_in_threadpool(pixels_from_bytes, images[0], images[1], spec)
        except ImageError as error:
            raise ApiError(422, str(error.code), error.message) from error
        return to_score(await score_pair(pixels), pair_id, labels, model.model_digest)

    _add_problem_handlers(app)
    app.add_middleware(BodyLimit)
    return app


class BodyLimit:
    """Refuses bodies that are too large, before they are stored anywhere."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what comes in, and answer 413 beyond the limit."""
        declared = dict(scope.get("headers", ())).get(b"content-length", b"0")
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > MAX_BODY_BYTES:
                raise HTTPException(413, "the request is too large")
            return message

        if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
            await _problem(413, "too_large", "the request is too large")(scope, receive, send)
        else:
            await self._app(scope, counted, send)


async def _read(upload: UploadFile | None) -> bytes | None:
    if upload is None:
        return None
    data = await upload.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise ApiError(413, "too_large", f"An image may hold {MAX_IMAGE_BYTES // 1_000_000} MB at most.")
    return data


def _problem(status: int, code: str, detail: str) -> JSONResponse:
    problem = Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail, code=code)
    return JSONResponse(problem.model_dump(), status, media_type=PROBLEM_JSON)


def _add_problem_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return _problem(error.status, error.code, error.detail)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        fields = "; ".join(f"{e['loc'][-1]}: {e['msg']}" for e in error.errors())
        return _problem(422, "invalid_request", fields)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, "http_error", str(error.detail))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        logger.error("unexpected %s while scoring", type(error).__name__)
        return _problem(500, "internal_error", "The server could not answer. Try again.")
