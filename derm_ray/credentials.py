"""Detecting and redacting credentials in text."""

import re

_NAME = re.compile(
    r"SECRET|TOKEN|PASSW|PASSPHRASE|CREDENTIAL|SIGNATURE|CONNECTION_STRING|KEY$|(^|[_-])(KEY|SAS|PWD)([_-]|$)",
    re.IGNORECASE,
)
_FILE_NAMES = re.compile(r"(_FILE|_PATH)$|^GOOGLE_APPLICATION_CREDENTIALS$", re.IGNORECASE)
_HIDDEN = "***"
# The group `value` is redacted.
_CREDENTIALS = (
    (re.compile(r"://(?P<value>[^/\s@:]*:[^/\s]*)@"), "a password in a URI"),
    (re.compile(r"https?://(?P<value>[^/\s@]+)@"), "a credential in a URI"),
    (
        re.compile(
            r"[?&#](?:sig(?:nature)?|x-(?:amz|goog)-[a-z-]+|[a-z_.-]*(?:secret|token|password|passwd|pwd|key))="
            r"(?P<value>[^&\s'\"#]*)",
            re.IGNORECASE,
        ),
        "a signed URI",
    ),
    (
        re.compile(r"\b(?:AccountKey|SharedAccessKey|SharedAccessSignature)=(?P<value>[^;\s'\"]+)"),
        "a connection string",
    ),
    (re.compile(r"\bBearer\s+(?P<value>[\w.~+/=-]{16,})", re.IGNORECASE), "a bearer token"),
    (re.compile(r"['\"]Bearer\s+(?P<value>[^'\"]+)['\"]"), "a bearer token"),  # a whole header, whatever is in it
    (re.compile(r"\bBearer\s+(?!TOKEN\b|\*)(?P<value>[^\s'\"`\\]+)"), "a bearer token"),
    (re.compile(r"\b(?P<value>(?:AKIA|ASIA)[0-9A-Z]{16})\b"), "an AWS access key"),
    (re.compile(r"\b(?P<value>gh[pousr]_\w{36,}|hf_[A-Za-z0-9]{30,})\b"), "an access token"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?P<value>[^-]*)"), "a private key"),
)


def find_credential(text: str) -> str | None:
    """Return what kind of credential a text holds, such as ``a signed URI``, or ``None``."""
    return next((kind for pattern, kind in _CREDENTIALS if pattern.search(text)), None)


def redact(text: str) -> str:
    """Return a text with the credentials in it replaced by ``***``."""
    for pattern, _ in _CREDENTIALS:
        text = pattern.sub(_hide, text)
    return text


def names_a_secret(name: str, value: str) -> bool:
    """Return whether a variable's name says that its value is a secret, and not a path to one."""
    if _FILE_NAMES.search(name) and value.startswith("/"):
        return False
    return _NAME.search(name) is not None


def _hide(match: re.Match[str]) -> str:
    start, end = (position - match.start() for position in match.span("value"))
    return match[0][:start] + _HIDDEN + match[0][end:]
