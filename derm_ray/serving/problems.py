"""Refusals as RFC 9457 problem documents with stable codes."""

import http
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from derm_ray.serving.schemas import Problem

PROBLEM_JSON = "application/problem+json"
MOST_TOLD = 10
"""Invalid fields that a problem document names."""


class ApiError(HTTPException):
    """A refusal with its status and stable code.

    Args:
        status: of HTTP.
        code: for programs; see ``docs/serving.md``.
        detail: for people.
        headers: of the answer.
    """

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        self.code = code
        super().__init__(status, detail, headers)


def busy(wait_s: int) -> ApiError:
    """Return the refusal of a request that would not be answered in time.

    Args:
        wait_s: seconds after which it might.
    """
    return ApiError(503, "busy", "The endpoint is busy. Try again later.", {"retry-after": str(wait_s)})


def to_problem(error: HTTPException) -> Problem:
    """Return what a caller is told of an error."""
    status = http.HTTPStatus(error.status_code)
    code = error.code if isinstance(error, ApiError) else status.name.lower()
    return Problem(title=status.phrase, status=status, detail=str(error.detail), code=code)


def respond(error: HTTPException) -> JSONResponse:
    """Return an error as a response."""
    return JSONResponse(to_problem(error).model_dump(), error.status_code, error.headers, media_type=PROBLEM_JSON)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every refusal of an application with a problem document."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        told = [_told(one) for one in error.errors()]
        more = f"; and {len(told) - MOST_TOLD} more" if len(told) > MOST_TOLD else ""
        return respond(ApiError(422, "invalid_request", "; ".join(told[:MOST_TOLD]) + more))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return respond(error)


def _told(error: Mapping[str, Any]) -> str:
    """Return what is wrong with a field; the name of one that is not ours would be the caller's own text."""
    name = "a field" if error["type"] == "extra_forbidden" else error["loc"][-1]
    return f"{name}: {error['msg']}"
