"""Bearer tokens (RFC 6750): hashed at rest, compared in constant time."""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from derm_ray import storage
from derm_ray.errors import ConfigError

VARIABLE = "DERM_RAY_TOKENS"
TOKEN_BYTES = 32
_LINE = re.compile(r"(?P<id>[A-Za-z0-9][A-Za-z0-9._-]{0,63}):(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True)
class Tokens:
    """Who may call the endpoint.

    A token is 256 random bits, so that its plain SHA-256 cannot be turned back.

    Attributes:
        hashes: token id -> SHA-256 of the token, 32 bytes.
    """

    hashes: Mapping[str, bytes]

    def identify(self, authorization: str | None) -> str | None:
        """Return the id of the token in an ``Authorization`` header, or ``None``.

        Every known hash is compared, so that the duration reveals nothing.
        """
        scheme, _, token = (authorization or "").partition(" ")
        digest = _hash(token.strip())
        found = None
        for name, known in self.hashes.items():
            if hmac.compare_digest(known, digest) and scheme.lower() == "bearer":
                found = name
        return found


def new_token(name: str) -> tuple[str, str]:
    """Return a fresh token and the line that a token file keeps of it.

    Raises:
        ConfigError: the id is not made of letters, digits, ``.``, ``_`` and ``-``.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    line = f"{name}:{_hash(token).hex()}"
    if not _LINE.fullmatch(line):
        raise ConfigError(
            f"token id {name!r}: use letters, digits, '.', '_' and '-', at most 64, a letter or digit first."
        )
    return token, line


def find_tokens(uri: str | None) -> Tokens | None:
    """Return the tokens of a file, else those of the environment variable :data:`VARIABLE`, else ``None``.

    Raises:
        StorageError: the file cannot be read.
        ConfigError: a line is not ``id:sha256``.
    """
    if uri is None:
        text = os.environ.get(VARIABLE)
        return parse_tokens(text, VARIABLE) if text is not None else None
    try:
        return parse_tokens(storage.read_bytes(uri).decode("utf-8-sig"), uri)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{uri}: not a text file of lines `id:sha256`.") from error


def parse_tokens(text: str, where: str) -> Tokens:
    """Parse lines ``id:sha256``; empty lines and those that begin with ``#`` are skipped.

    Raises:
        ConfigError: a line is not of that form, an id is repeated, or there is no token. The message never quotes a
            line: it may be the token itself.
    """
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not (stripped := line.strip()) or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ConfigError(f"{where}: line {number} is not `id:sha256`. Create lines with `derm-ray token ID`.")
        if match["id"] in hashes:
            raise ConfigError(f"{where}: line {number}: the id {match['id']!r} occurs twice. Remove one.")
        hashes[match["id"]] = bytes.fromhex(match["sha256"])
    if not hashes:
        raise ConfigError(f"{where}: no token. Create one with `derm-ray token ID`.")
    return Tokens(hashes)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
