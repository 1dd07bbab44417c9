"""A client of the endpoint."""

import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from derm_ray.errors import ConfigError, ServingError
from derm_ray.serving.schemas import Answers, Model, PairAnswer, Score
from derm_ray.vocabulary import Modality

MOST_WAIT_S = 30.0
T = TypeVar("T", bound=BaseModel)


class Client:
    """Asks an endpoint; a context manager.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        token: bearer token, if the endpoint wants one.
        timeout_s: for one answer.
        attempts: how often a request is sent that the endpoint is too busy for (429, 503), after its ``Retry-After``.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout_s: float = 60.0, attempts: int = 4) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s)
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"--url {url}: no address ({error}). Give one such as http://127.0.0.1:8000.") from None
        self._attempts = attempts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def model(self) -> Model:
        """Return what the endpoint tells of its model.

        Raises:
            ServingError: no answer, or a refusal.
        """
        return self._ask(Model, "GET", "/v1/model")

    def score(
        self,
        clinical: bytes | None = None,
        dermoscopy: bytes | None = None,
        *,
        pair_id: str | None = None,
        saliency: bool = False,
    ) -> Score:
        """Score one lesion.

        Args:
            clinical, dermoscopy: encoded images, one of them at least.
            pair_id: comes back in the answer.
            saliency: also ask for overlays; see :func:`overlays`.

        Raises:
            ServingError: no answer, or a refusal; the message holds its code.
        """
        files = {str(m): data for m, data in zip(Modality, (clinical, dermoscopy), strict=True) if data is not None}
        fields = {"saliency": "png" if saliency else "none"} | ({"pair_id": pair_id} if pair_id is not None else {})
        return self._ask(Score, "POST", "/v1/score", files=files or None, data=fields)

    def score_batch(self, pairs: Sequence[Mapping[Modality, bytes]]) -> list[PairAnswer]:
        """Score several lesions in one request.

        Args:
            pairs: at most 16, each one or two encoded images by modality.

        Returns:
            One answer per pair, in order: a score, or the problem that this pair has.

        Raises:
            ServingError: no answer, or a refusal of the whole.
        """
        encoded = [{str(m): b64encode(data).decode() for m, data in pair.items()} for pair in pairs]
        return self._ask(Answers, "POST", "/v1/score-batch", json={"pairs": encoded}).answers

    def _ask(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        where = f"{self._http.base_url}"
        for left in reversed(range(self._attempts)):
            try:
                answer = self._http.request(method, path, **options)
            except httpx.HTTPError as error:
                reason = str(error) or type(error).__name__
                raise ServingError(f"{where}: no answer ({reason}). Check the address, and that it serves.") from error
            if answer.status_code not in (429, 503) or not left:
                break
            time.sleep(_wait_s(answer))
        try:
            values = answer.json()
            if answer.is_success:
                return kind.model_validate(values)
            raise ServingError(f"{where}: refused: {values['detail']} ({values['code']}, status {answer.status_code})")
        except (ValueError, KeyError, TypeError, ValidationError):
            raise ServingError(f"{where}: status {answer.status_code} and no answer of derm_ray.") from None


def overlays(score: Score) -> dict[Modality, bytes]:
    """Return the overlays of an answer as PNG files."""
    return {modality: b64decode(text) for modality, text in score.saliency.items()}


def _wait_s(answer: httpx.Response) -> float:
    told = answer.headers.get("retry-after", "")
    return min(MOST_WAIT_S, float(told)) if told.isdecimal() else 1.0
