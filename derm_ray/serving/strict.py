"""Strict requests: unknown or repeated fields are errors."""

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.params import File
from fastapi.routing import APIRoute
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Receive, Scope

from derm_ray.serving.problems import ApiError, invalid_request, shown, unknown_names


class StrictRoute(APIRoute):
    """A route that refuses query parameters, form fields and JSON keys which it would ignore."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, wrapped in the checks."""
        handle = super().get_route_handler()
        parameters = [field.alias for field in self.dependant.query_params]
        fields = {field.alias: isinstance(field.field_info, File) for field in self.dependant.body_params}

        async def checked(request: Request) -> Response:
            given = [name for name, _ in request.query_params.multi_items()]
            if problems := _check("query parameter", given, parameters):
                raise invalid_request(problems)
            return await handle(_StrictRequest(request.scope, request.receive, fields))

        return checked


class _StrictRequest(Request):
    """A request whose body is checked as it is parsed.

    Args:
        scope, receive: of the request.
        fields: the form's field names, and whether each is a file.
    """

    def __init__(self, scope: Scope, receive: Receive, fields: dict[str, bool]) -> None:
        super().__init__(scope, receive)
        self._fields = fields

    async def json(self) -> Any:
        """Return the JSON value of the body."""
        return json.loads(await self.body(), object_pairs_hook=_object)

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]
        """Return the form, in which a file may lack a file name (RFC 7578, 4.2)."""
        kind, _ = parse_options_header(self.headers.get("content-type"))
        if kind == b"multipart/form-data":
            parser = _Parser(self.headers, self.stream(), **limits)
            parser.files = {name for name, is_file in self._fields.items() if is_file}
            try:
                self._form = await parser.parse()
            except MultiPartException as error:
                raise ApiError(400, "bad_request", error.message) from error
        form = await super().form(**limits)
        items = form.multi_items()
        problems = _check("field", [name for name, _ in items], list(self._fields))
        problems += [
            f"{name}: is text. Send the image as a file in multipart/form-data, such as `curl -F {name}=@FILE`."
            for name, value in items
            if self._fields.get(name) and not isinstance(value, UploadFile)
        ]
        if problems:
            await form.close()
            raise invalid_request(problems)
        return form


class _Parser(MultiPartParser):
    """Takes the parts named in ``files`` for files, whether they have a file name or not."""

    files: Iterable[str] = ()

    def on_headers_finished(self) -> None:
        disposition = self._current_part.content_disposition or b""
        _, options = parse_options_header(disposition)
        if options.get(b"name", b"").decode("latin-1") in self.files and b"filename" not in options:
            self._current_part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()


def _check(kind: str, given: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the problems with the field names of a request."""
    repeated = [name for name, count in Counter(given).items() if count > 1]
    unknown = [name for name in dict.fromkeys(given) if name not in known]
    problems = [unknown_names(kind, unknown, known)] if unknown else []
    return problems + [f"{kind} {shown(name)} is repeated. Send it once." for name in repeated]


def json_object(name: str, text: str) -> dict[str, Any]:
    """Return the JSON object in a form field.

    Raises:
        ApiError: it is none, or repeats a key (422).
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise invalid_request([f'{name}: not a JSON object, such as {{"age": 45}}'])
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise invalid_request(_check("field", [name for name, _ in pairs], list(found)))
    return found
