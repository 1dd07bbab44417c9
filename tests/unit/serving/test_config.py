from pathlib import Path
from typing import Any

import pytest
import yaml

from derm_ray.errors import ConfigError
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.config import check_config, read_config
from derm_ray.serving.deployment import application

FILES = sorted((Path(__file__).parents[3] / "cluster" / "serve").glob("*.yaml"))


def good() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((FILES[-1]).read_text())
    return values


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_files_we_ship_are_good(file: Path) -> None:
    assert read_config(str(file)).applications[0].name == "derm_ray"


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (["proxylocation"], "HeadOnly", "the file: Additional properties are not allowed ('proxylocation'"),
        (["http_options", "prot"], 1, "http_options: Additional properties are not allowed ('prot'"),
        (["http_options", "port"], "many", "http_options.port: 'many' is not of type 'integer'"),
        (["applications", 0, "arguments"], {}, "applications.0: Additional properties"),
        (["applications", 0, "args", "modle"], "x", "applications.0.args.modle: Extra inputs are not permitted"),
        (["applications", 0, "args", "replicas"], 9, "max_replicas 8 is below replicas 9"),
        (["applications", 0, "args"], {}, "applications.0.args.model: Field required"),
        (
            ["applications", 0, "import_path"],
            "other:app",
            "applications: expected exactly one with `import_path: derm_ray.serving.",
        ),
        (
            ["applications", 0, "deployments", 0, "name"],
            "Model",
            "deployments: 'Model' is unknown; the deployment is ModelReplica",
        ),
        (["applications", 0, "deployments", 0, "max_surge"], 1, "applications.0.deployments.0: Additional properties"),
        (
            ["applications", 0, "deployments", 0, "autoscaling_config"],
            {"min_replica": 1},
            "applications.0.deployments.0.autoscaling_config",
        ),
        (
            ["applications", 0, "deployments", 0, "ray_actor_options"],
            {"num_cpu": 1},
            "applications.0.deployments.0.ray_actor_options: Additional properties are not allowed ('num_cpu'",
        ),
        (["logging_config", "level"], "INFO", "logging_config: Additional properties"),
        (
            ["applications", 0, "args", "tokens"],
            "https://h/tokens?X-Amz-Signature=hunter2",
            "applications.0.args.tokens: contains a signed URI, which Ray's dashboard would show",
        ),
        (
            ["applications", 0, "runtime_env"],
            {"env_vars": {"AWS_PROFILE": "x", "AWS_SECRET_ACCESS_KEY": "hunter2"}},
            "applications.0.runtime_env.env_vars.AWS_SECRET_ACCESS_KEY: looks like a secret",
        ),
        (
            ["applications", 0, "runtime_env"],
            {"working_dir": "https://h/code.zip?X-Amz-Signature=hunter2"},
            "applications.0.runtime_env.working_dir: contains a signed URI",
        ),
        (
            ["applications", 0, "runtime_env"],
            {"py_modules": ["s3://b/a.zip", "https://h/b.zip?sig=hunter2"]},
            "applications.0.runtime_env.py_modules.1: contains a signed URI",
        ),
        (
            ["applications", 0, "deployments", 0, "ray_actor_options"],
            {"runtime_env": {"env_vars": {"AWS_SECRET_ACCESS_KEY": "hunter2"}}},
            "deployments.0.ray_actor_options.runtime_env.env_vars.AWS_SECRET_ACCESS_KEY: looks like a secret",
        ),
        (
            ["applications", 0, "deployments", 0, "user_config"],
            {"endpoint": "http://u:hunter2@minio"},
            "deployments.0.user_config.endpoint: contains a password in a URI",
        ),
    ],
)
def test_what_serve_would_pass_over_is_a_problem(place: list[Any], value: object, problem: str) -> None:
    values = good()
    part: Any = values
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    problems = [f"{'.'.join(map(str, path)) or 'the file'}: {what}" for path, what in check_config(values)]
    assert any(problem in told for told in problems), problems
    assert not any("hunter2" in told for told in problems)


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    values = good() | {"appliactions": [], "http_option": {}}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match="cannot be served") as caught:
        read_config(str(file))
    assert "appliactions" in str(caught.value)
    assert "http_option" in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "just words", "", "applications: 3"])
def test_what_is_no_config_is_said_in_one_message(tmp_path: Path, text: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"serve\.yaml"):
        read_config(str(file))


def test_an_application_wants_tokens_or_the_word_insecure(bundle_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DERM_RAY_TOKENS", raising=False)
    with pytest.raises(ConfigError, match="there are no tokens"):
        application(ServeArguments(model=bundle_uri))
    application(ServeArguments(model=bundle_uri, insecure=True))
    monkeypatch.setenv("DERM_RAY_TOKENS", "clinic:" + "0" * 64)
    application(ServeArguments(model=bundle_uri))
