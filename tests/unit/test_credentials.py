"""Credentials are recognized, and left out of what is told."""

import io
import logging
import pickle
import sys

import pytest

from derm_ray.credentials import find_credential, redact
from derm_ray.errors import ImageError, ImageErrorCode, ManifestError, StorageError
from derm_ray.observability import configure_logging
from derm_ray.operations.doctor.finding import Finding

TEXTS = [
    ("s3://AKID:hunter2@bucket/x", "s3://***@bucket/x"),
    ("https://hunter2@host/x y", "https://***@host/x y"),
    ("http://:hunter2@redis:6379", "http://***@redis:6379"),
    (
        "https://b.s3.amazonaws.com/x?X-Amz-Date=hunter2&X-Amz-Signature=hunter2&partNumber=1#f",
        "https://b.s3.amazonaws.com/x?X-Amz-Date=***&X-Amz-Signature=***&partNumber=1#f",
    ),
    ("'https://a.blob.core.windows.net/c?sv=1&sig=hunter2'", "'https://a.blob.core.windows.net/c?sv=1&sig=***'"),
    (
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hunter2==;EndpointSuffix=core.windows.net",
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=***;EndpointSuffix=core.windows.net",
    ),
    ("https://h/x.zip?access_token=hunter2&v=1", "https://h/x.zip?access_token=***&v=1"),
    ("https://h/x.zip#access_token=hunter2", "https://h/x.zip#access_token=***"),
    ("https://h/x.zip?api.key=hunter2", "https://h/x.zip?api.key=***"),
    ("https://h/x.zip?v=1&user_pwd=hunter2", "https://h/x.zip?v=1&user_pwd=***"),
    ("Authorization: Bearer hunter2hunter2hunter2", "Authorization: Bearer ***"),
    ("Illegal header value b'Bearer hunter2\\n'", "Illegal header value b'Bearer ***'"),
    ("in header value: 'Bearer hun\\nter2 x'", "in header value: 'Bearer ***'"),
    ("http://me:hunt@er2@proxy:3128", "http://***@proxy:3128"),
    ("key AKIAIOSFODNN7EXAMPLE.", "key ***."),
    ("hf_" + "a1" * 17, "***"),
    ("-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END", "-----BEGIN RSA PRIVATE KEY-----***-----END"),
]
ORDINARY = [
    "s3://bucket/a:b/c@d?versionId=3",
    "abfs://container@account.dfs.core.windows.net/x",
    "http://minio:9000/bucket/a@b",
    "Send `Authorization: Bearer TOKEN`.",
    "holds a bearer token, and",
    "s3://b/monkey.parquet?v=3&keys=2",
]


@pytest.mark.parametrize(("text", "shown"), TEXTS)
def test_a_credential_is_found_and_hidden(text: str, shown: str) -> None:
    assert find_credential(text)
    assert redact(text) == shown


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert find_credential(text) is None
    assert redact(text) == text


@pytest.mark.parametrize(
    "error",
    [
        StorageError(f"{TEXTS[3][0]}: not found."),
        ImageError(ImageErrorCode.MISSING, f"{TEXTS[3][0]}: not found."),
        ManifestError(TEXTS[3][0], [f"row 1: {TEXTS[3][0]} stands twice"]),
    ],
)
def test_errors_tell_none(error: Exception) -> None:
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert "hunter2" not in str(one)
        assert "X-Amz-Signature=***" in str(one)
    assert "hunter2" not in getattr(error, "message", "")


def test_findings_of_the_doctor_tell_none() -> None:
    finding = Finding(*(text for text, _ in TEXTS[:3]))
    assert (finding.subject, finding.found, finding.fix) == tuple(shown for _, shown in TEXTS[:3])


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_log_lines_tell_none(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("DERM_RAY_LOG_FORMAT", log_format)
    logger = logging.getLogger("derm_ray")
    for name in ("handlers", "level", "propagate"):
        monkeypatch.setattr(logger, name, getattr(logger, name) if name != "handlers" else [])
    configure_logging()
    try:
        raise OSError(TEXTS[0][0])
    except OSError:
        logger.exception("reading %s", TEXTS[3][0])
    text = stream.getvalue()
    assert "hunter2" not in text
    assert "X-Amz-Signature=***" in text
    assert "s3://***@bucket/x" in text
