"""A client of the endpoint."""

import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from derm_ray.domain import Modality
from derm_ray.errors import ConfigError, ServingError, counted
from derm_ray.proxies import certificates, proxy_for, trusting
from derm_ray.serving.schemas import BatchResult, Model, PairResult, Score

MAX_WAIT_S = 30.0
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1
T = TypeVar("T", bound=BaseModel)


class Client:
    """Asks an endpoint; a context manager. No response, or a refusal, is a :class:`ServingError` with its code.

    Args:
        url: such as ``http://127.0.0.1:8000``.
        token: bearer token, if the endpoint wants one.
        token_name: where the token comes from, for messages.
        timeout_s: for one answer.
        attempts: how often a request is sent that the endpoint is too busy for (429, 503), after its ``Retry-After``.

    Raises:
        ConfigError: the address or the token cannot be used, nor a proxy or certificates that the environment names.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        token_name: str = "token",  # noqa: S107
        timeout_s: float = 60.0,
        attempts: int = 4,
    ) -> None:
        headers = _authorization(token or "", token_name)
        try:
            address = httpx.URL(url.rstrip("/"))
        except (httpx.InvalidURL, ValueError) as error:
            raise ConfigError(
                f"--url {url}: not a valid URL ({error}). Give one such as http://127.0.0.1:8000."
            ) from None
        if address.scheme not in ("http", "https") or not address.host:
            raise ConfigError(f"--url {url}: not a valid URL. Give one such as http://127.0.0.1:8000.")
        self._proxy = proxy_for(str(address), "socksio")
        self._trusted = certificates("SSL_CERT_FILE", "SSL_CERT_DIR") if address.scheme == "https" else None
        self._http = httpx.Client(
            base_url=address,
            headers=headers,
            timeout=timeout_s,
            trust_env=False,  # the environment was read above, except proxies for loopback
            proxy=self._proxy.url if self._proxy else None,
            verify=trusting(self._trusted) if self._trusted else True,
        )
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
        """Return the endpoint's description of its model."""
        return self._ask(Model, "GET", "/v1/model")

    def score(
        self,
        clinical: bytes | None = None,
        dermoscopy: bytes | None = None,
        *,
        pair_id: str | None = None,
        saliency: bool = False,
        patient: Mapping[str, float | str] | None = None,
    ) -> Score:
        """Score one lesion.

        Args:
            clinical, dermoscopy: encoded images, one of them at least.
            pair_id: returned in the score.
            saliency: also ask for overlays; see :func:`overlays`.
            patient: patient data by field; :meth:`model` names the fields.
        """
        files = {str(m): data for m, data in zip(Modality, (clinical, dermoscopy), strict=True) if data is not None}
        fields = {"saliency": "png" if saliency else "none"} | ({"pair_id": pair_id} if pair_id is not None else {})
        fields |= {"patient": json.dumps(dict(patient))} if patient else {}
        return self._ask(Score, "POST", "/v1/score", files=files or None, data=fields)

    def score_batch(
        self,
        pairs: Sequence[Mapping[Modality, bytes]],
        *,
        patients: Sequence[Mapping[str, float | str]] | None = None,
    ) -> list[PairResult]:
        """Score several lesions in one request.

        Args:
            pairs: at most 16, each one or two encoded images by modality.
            patients: patient data of each pair by field, empty where none is known; :meth:`model` names the fields.

        Returns:
            One result per pair, in order: a score, or a problem.

        Raises:
            ConfigError: there are not as many ``patients`` as pairs.
        """
        if patients is not None and len(patients) != len(pairs):
            raise ConfigError(
                f"patients: {len(patients)} for {counted(len(pairs), 'pair')}. Give one for each pair, empty where "
                "nothing is known."
            )
        encoded: list[dict[str, Any]] = [{str(m): b64encode(data).decode() for m, data in p.items()} for p in pairs]
        for pair, patient in zip(encoded, patients or (), strict=False):
            pair |= {"patient": dict(patient)} if patient else {}
        return self._ask(BatchResult, "POST", "/v1/score-batch", json={"pairs": encoded}).results

    def _ask(self, kind: type[T], method: str, path: str, **options: Any) -> T:
        where = f"{self._http.base_url}" + (f" through {self._proxy}" if self._proxy else "")
        check = f"the address, {self._proxy.variable} and NO_PROXY" if self._proxy else "the address"
        check += f", the certificates of {self._trusted}" if self._trusted else ""
        for left in reversed(range(self._attempts)):
            try:
                answer = self._http.request(method, path, **options)
            except (httpx.HTTPError, UnicodeError) as error:  # also for invalid host names
                reason = str(error) or type(error).__name__
                raise ServingError(
                    f"{where}: no response ({reason}). Check {check}, and that the endpoint is running."
                ) from error
            if answer.status_code not in (429, 503) or not left:
                break
            time.sleep(_wait_s(answer))
        try:
            values = answer.json()
            if answer.is_success:
                return kind.model_validate(values)
            raise ServingError(f"{where}: refused: {values['detail']} ({values['code']}, status {answer.status_code})")
        except (ValueError, KeyError, TypeError, ValidationError):
            raise ServingError(
                f"{where}: status {answer.status_code}, but not a response of derm_ray. Check {check}, "
                "and that the endpoint has started."
            ) from None


def _authorization(token: str, name: str) -> dict[str, str]:
    """Return the header of a token, around which white space does not count.

    Raises:
        ConfigError: it cannot be a bearer token; the message does not quote it.
    """
    stripped = token.strip()
    if stripped and _TOKEN.fullmatch(stripped) is None:
        raise ConfigError(
            f"{name} is not a bearer token (letters, digits and -._~+/= only). Use the token as printed by "
            "`derm-ray token`."
        )
    return {"authorization": f"Bearer {stripped}"} if stripped else {}


def overlays(score: Score) -> dict[Modality, bytes]:
    """Return the overlays of an answer as PNG files."""
    return {modality: b64decode(text) for modality, text in score.saliency.items()}


def _wait_s(answer: httpx.Response) -> float:
    retry_after = answer.headers.get("retry-after", "")
    return min(MAX_WAIT_S, float(retry_after)) if retry_after.isdecimal() else 1.0
