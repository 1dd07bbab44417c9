"""A Ray head that asks for its token, on a machine of its own."""

from collections.abc import Iterator

import pytest

from derm_ray.data.manifest import Manifest, write_manifest
from tests.conftest import take
from tests.security.network import TOKEN, Head, head, wire

MARKERS = {
    "AWS_ACCESS_KEY_ID": "AKIAMARKER7AWSKEYID9",
    "AWS_SECRET_ACCESS_KEY": "marker-aws-secret-Zk3w8",
    "AWS_SESSION_TOKEN": "marker-aws-session-Pq71x",
    "AZURE_STORAGE_KEY": "marker-azure-key-T5u2v",
    "DERM_RAY_TOKEN": "marker-caller-token-L8m4n",
}
"""Secrets in the environment of Ray and of those who use it."""


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Token mode, the dashboard on every interface as in Kubernetes, and secrets in its environment."""
    file = tmp_path_factory.mktemp("token") / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(file), **MARKERS}
    with wire() as machines, head(machines, environment, cpus=6) as started:
        yield started


@pytest.fixture(scope="package")
def manifest(pairs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "m.parquet")
    write_manifest(take(pairs.absolute(), 60), uri)
    return uri
