"""What is checked before anything reaches a cluster."""

import zipfile
from pathlib import Path

import pytest

from derm_ray import __version__
from derm_ray.cluster_auth import INSECURE_VARIABLE
from derm_ray.errors import ConfigError
from derm_ray.submission.package import Package, read_package
from derm_ray.submission.request import JobRequest, check_uri, parse_settings, refuse_secrets
from derm_ray.submission.version import VERSION_VARIABLE, check_version

ARGUMENTS = ("--model", "s3://b/model", "--input", "s3://b/my pairs.parquet", "--out", "s3://b/scores")


def test_an_id_follows_from_all_that_is_asked() -> None:
    request = JobRequest("score", ARGUMENTS)
    assert request.id == JobRequest("score", ARGUMENTS).id
    assert request.id.startswith("score-")
    others = [
        JobRequest("evaluate", ARGUMENTS),
        JobRequest("score", (*ARGUMENTS, "--per-input-predictions")),
        JobRequest("score", ARGUMENTS, Package(b"", __version__, "1f")),
        JobRequest("score", ARGUMENTS, Package(b"", __version__, "2f")),
        JobRequest("score", ARGUMENTS, settings={"AWS_PROFILE": "a"}),
    ]
    assert len({request.id, *(other.id for other in others)}) == 6
    named = JobRequest("score", ARGUMENTS, name="nightly")
    assert [named.attempt(1), named.attempt(2), named.digest] == ["nightly", "nightly.2", request.digest]


def test_what_a_cluster_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INSECURE_VARIABLE, raising=False)
    monkeypatch.delenv("DERM_RAY_LOG_FORMAT", raising=False)
    request = JobRequest("score", ARGUMENTS, settings={"AWS_PROFILE": "a"})
    assert request.entrypoint == (
        "python -m derm_ray score --model s3://b/model --input 's3://b/my pairs.parquet' --out s3://b/scores --json"
    )
    assert request.variables == {"AWS_PROFILE": "a", VERSION_VARIABLE: __version__}
    monkeypatch.setenv("DERM_RAY_LOG_FORMAT", "json")
    assert request.variables["DERM_RAY_LOG_FORMAT"] == "json"
    assert JobRequest("score", ("--json",)).entrypoint.count("--json") == 1
    assert JobRequest("score", (), Package(b"", "2.0", "f")).variables[VERSION_VARIABLE] == "2.0"


@pytest.mark.parametrize("name", ["a/b", "", "-x", "nightly.2", "x" * 101])
def test_a_name_that_is_no_id(name: str) -> None:
    with pytest.raises(ConfigError, match="--id"):
        JobRequest("score", (), name=name)


def test_an_unknown_command_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown command 'skore'. Did you mean 'score'"):
        JobRequest("skore", ())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--out", "s3://AKID:hunter2@bucket/scores"),
        ("--model", "https://hunter2@host/model"),
        ("--model", "https://host/model?X-Amz-Signature=hunter2"),
        ("--model", "https://account.blob.core.windows.net/m?sv=1&sig=hunter2"),
        ("--set", "wandb_token=hunter2"),
        ("--api-key=hunter2",),
        ("--name", "AKIAIOSFODNN7EXAMPLE"),
    ],
)
def test_a_secret_among_the_arguments_is_refused_and_not_repeated(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="IAM role") as refused:
        JobRequest("score", arguments)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SESSION_TOKEN", "x"),
        ("DB_PASSWORD", "x"),
        ("HF_TOKEN", ""),
        ("APIKEY", "x"),
        ("AZURE_STORAGE_CONNECTION_STRING", "x"),
        ("STORAGE", "AccountName=a;AccountKey=hunter2"),
        ("AWS_ENDPOINT_URL", "http://user:hunter2@minio:9000"),
    ],
)
def test_a_secret_setting_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"--env {name}") as refused:
        refuse_secrets((), {name: value})
    assert "hunter2" not in str(refused.value)


def test_ordinary_arguments_are_no_secrets() -> None:
    refuse_secrets(
        (*ARGUMENTS, "--set", "epochs=3", "--set", "label_set=paper15", "--init-weights", "vgg16=s3://b/keys=1/w.st",
         "--out", "abfs://container@account.dfs.core.windows.net/scores", "--input", "s3://b/monkey.parquet?v=3"),
        {
            "AWS_PROFILE": "derm", "AWS_ENDPOINT_URL": "http://minio:9000", "AWS_REGION": "eu-central-1",
            "AWS_SHARED_CREDENTIALS_FILE": "/secrets/aws", "GOOGLE_APPLICATION_CREDENTIALS": "/secrets/gcp.json",
        },
    )  # fmt: skip


def test_settings() -> None:
    assert parse_settings(["A=1", "B=x=y"]) == {"A": "1", "B": "x=y"}
    for wrong, message in (
        ("A", "give NAME=VALUE"),
        ("1A=x", "give NAME=VALUE"),
        ("AWS_SECRET_ACCESS_KEY", "looks like a secret"),
        ("RAY_ADDRESS=x", "sets this itself"),
        (f"{VERSION_VARIABLE}=9", "sets this itself"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_settings([wrong])


def test_uris() -> None:
    assert check_uri("--out", "/mnt/shared/x")
    assert check_uri("--out", "file:///mnt/shared/x")
    assert not check_uri("--out", "s3://b/x")
    with pytest.raises(ConfigError, match=r"--out runs/x: relative"):
        check_uri("--out", "runs/x")


def test_another_version_is_refused_by_both_names() -> None:
    check_version(None)
    check_version(__version__)
    with pytest.raises(ConfigError, match=rf"runs derm_ray {__version__}, .* for 9\.9\.9\. .*--package WHEEL"):
        check_version("9.9.9")


def test_a_package_tells_its_version(tmp_path: Path) -> None:
    wheel = tmp_path / "derm_ray-2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("derm_ray/__init__.py", '"""Doc."""\n\n__version__ = "2.0"\n')
        archive.writestr("derm_ray/__main__.py", "")
    package = read_package(str(wheel))
    assert package.version == "2.0"
    package.unpack(str(tmp_path / "there"))
    assert (tmp_path / "there/derm_ray/__main__.py").exists()
    (tmp_path / "no.whl").write_bytes(b"no wheel")
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("numpy/__init__.py", "")
    for name in ("no.whl", "other.whl"):
        with pytest.raises(ConfigError, match="not a wheel of derm_ray"):
            read_package(str(tmp_path / name))
