"""Errors as RFC 9457 problem documents with stable codes."""

import http
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from derm_ray.errors import unknown_name
from derm_ray.serving.schemas import Pair, Pairs, Problem

PROBLEM_JSON = "application/problem+json"
MAX_REPORTED = 10
"""Maximum number of invalid fields in a problem document."""
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,23}")


class ApiError(HTTPException):
    """A refusal with its status and stable code.

    Args:
        status: of HTTP.
        code: for programs; see ``docs/reference/errors.md``.
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
    """Return the problem document of an error."""
    status = http.HTTPStatus(error.status_code)
    code = error.code if isinstance(error, ApiError) else status.name.lower()
    return Problem(title=status.phrase, status=status, detail=str(error.detail), code=code)


def respond(error: HTTPException) -> JSONResponse:
    """Return an error as a response."""
    return JSONResponse(to_problem(error).model_dump(), error.status_code, error.headers, media_type=PROBLEM_JSON)


def invalid_request(problems: Sequence[str]) -> ApiError:
    """Return the error for a request with invalid fields."""
    more = [f"and {len(problems) - MAX_REPORTED} more"] if len(problems) > MAX_REPORTED else []
    listed = [problem.removesuffix(".") for problem in problems[:MAX_REPORTED]]
    return ApiError(422, "invalid_request", "; ".join(listed + more) + ".")


def shown(name: str) -> str:
    """Return a caller's name for a field as an answer quotes it: only a plain word of at most 24 characters."""
    return repr(name) if _PLAIN.fullmatch(name) else "(its name is not a plain word)"


def unknown_names(kind: str, names: Sequence[str], known: Sequence[str]) -> str:
    """Return the message for fields that are not ours; for a single one, with the nearest that is."""
    if known and len(names) == 1 and _PLAIN.fullmatch(names[0]):
        return unknown_name(kind, names[0], known)
    listed = ", ".join(map(shown, names[:MAX_REPORTED]))
    more = f" and {len(names) - MAX_REPORTED} more" if len(names) > MAX_REPORTED else ""
    accepted = f"Known: {', '.join(known)}." if known else "This URL accepts none."
    return f"unknown {kind}{'s' * (len(names) > 1)} {listed}{more}. {accepted}"


def add_problem_handlers(app: FastAPI) -> None:
    """Return a problem document for every error of an application."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return respond(invalid_request([_describe(one) for one in error.errors()]))

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405 and error.headers and error.headers.get("Allow") == "GET":
            error.headers = {**error.headers, "Allow": "GET, HEAD"}
        return respond(error)


def _describe(error: Mapping[str, Any]) -> str:
    """Describe a validation error, with its field and pair."""
    _, *location = error["loc"]
    if error["type"] == "json_invalid":
        return f"the body is not valid JSON at character {location[0]}"
    if error["type"] == "extra_forbidden":
        *location, name = location
        what = unknown_names("field", [str(name)], list((Pair if location else Pairs).model_fields))
    else:
        what = error["msg"]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).lstrip(".")
    return f"{where or 'the body'}: {what}"
