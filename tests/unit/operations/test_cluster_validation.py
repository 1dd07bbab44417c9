"""Whatever a file holds, the answer is a list of problems, for people and for machines."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kubernetes_validate import latest_version
from typer.testing import CliRunner

from derm_ray.cli import app
from derm_ray.cli.cluster import check_words
from derm_ray.errors import ConfigError
from derm_ray.operations.cluster.documents import read_documents
from derm_ray.operations.cluster.schemas import CRDS_VARIABLE
from derm_ray.operations.cluster.validation import check_document, validate_file

CLUSTER = Path(__file__).parents[3] / "cluster"
ROOT = typer.main.get_command(app)
SEEDS = [
    yaml.safe_load(path.read_text().split("\n---\n")[0])
    for folder in ("kuberay", "launcher", "prometheus")
    for path in sorted(CLUSTER.glob(f"{folder}/*"))
]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=False, width=16),
    st.sampled_from(["", "x", "0", "token", "9" * 30, "\u0660", "a: [b", "- a", "$(", "derm-ray", "python -m"]),
    st.lists(st.sampled_from([None, 1, "x", {}, []]), max_size=2),
    st.dictionaries(
        st.sampled_from(["name", "value", "x", "kind"]), st.sampled_from([None, 1, "x", [], {}]), max_size=2
    ),
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for step, one in steps for found in paths(one, (*path, step)))]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_value_anywhere_ends_in_a_traceback(data: st.DataObject) -> None:
    document = json.loads(json.dumps(data.draw(st.sampled_from(SEEDS))))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(document)))
        if not path:
            continue
        place = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = data.draw(VALUES)
    problems: list[Any] = []
    for one in read_documents(json.dumps(document), "f", problems):
        check_document(one, lambda words: check_words(ROOT, words))
    assert all("; " in str(problem) for problem in problems)


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["cluster", "validate", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout


def test_all_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.yaml", "b.yaml", "c.yaml"))
    first.write_text(
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n---\napiVersion: v1\nkind: Pood\nmetadata: {name: p}\n"
    )
    second.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: derm-ray, label: {}}\n")
    third.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {name: derm-ray}\n")
    code, out = run(str(first), str(second), str(third), str(tmp_path / "gone.yaml"))
    assert code == 2
    lines = out.splitlines()
    assert lines[0].startswith(f"{first}:2: kind: a secret does not belong in a file; ")
    assert lines[1].startswith(f"{first}:6: kind: Kubernetes {latest_version()} has no Pood in v1")
    assert lines[2].startswith(f"{second}:3: metadata.label: unknown field 'label'. Did you mean 'labels'?; ")
    assert lines[3] == f"{third}: Namespace derm-ray: no problems"
    assert lines[4].startswith(f"{tmp_path}/gone.yaml:1: the file: cannot be read")
    assert len(lines) == 5


def test_machines_get_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("apiVersion: v1\nkind: Namespace\nmetadata: {labels: {a: 1}}\n")
    code, out = run(str(file), "--json")
    told = json.loads(out)
    assert (code, told["problems"]) == (2, 2)
    problem = told["files"][0]["problems"][0]
    assert (problem["line"], problem["path"]) == (3, "metadata.labels.a")
    assert set(problem) == {"file", "line", "path", "what", "fix"}
    code, out = run(str(CLUSTER / "kuberay/network-policy.yaml"), "--json")
    assert (code, json.loads(out)["problems"]) == (0, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file: is empty"),
        (b"\xff\xfe\x00", "the file: is not text"),
        (b"just words", "the document: is neither a Kubernetes object"),
        (b"- a\n- b", "the document: is neither a Kubernetes object"),
        (b"kind: [RayJob]", "the document: is neither a Kubernetes object"),
        (b"kind: RayJob", "apiVersion: None has no RayJob; set apiVersion: ray.io/v1"),
        (b"applications: 3", "applications: 3 is not of type 'array'"),
        (b"cluster_name: a\nprovider: 3", "provider: 3 is not object"),
    ],
)
def test_other_files_are_told_what_they_are_not(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(content)
    report = validate_file(str(tmp_path / "f.yaml"), lambda words: check_words(ROOT, words))
    assert any(message in str(problem) for problem in report.problems), report.problems


def test_a_folder_without_the_definitions_is_one_message(tmp_path: Path) -> None:
    train = str(CLUSTER / "kuberay/train.yaml")
    with pytest.raises(ConfigError, match=r"there is no ray\.io_rayjobs\.yaml"):
        validate_file(train, lambda words: check_words(ROOT, words), str(tmp_path))
    for content in ("", "a: [", "spec: {versions: []}", "spec: {versions: 3}"):
        (tmp_path / "ray.io_rayjobs.yaml").write_text(content)
        with pytest.raises(ConfigError, match="is not a CustomResourceDefinition with the version v1"):
            validate_file(train, lambda words: check_words(ROOT, words), str(tmp_path))


def test_what_is_not_checked_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CRDS_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    train, rules = CLUSTER / "kuberay/train.yaml", CLUSTER / "prometheus/training.yaml"
    code, out = run(str(train), str(rules))
    assert code == 0
    assert f"{train}: not checked: the fields of RayJob derm-ray-train: name a folder that holds ray.io_rayjobs" in out
    assert f"{rules}: not checked: Prometheus rules: install Prometheus' promtool" in out


def test_definitions_are_taken_from_the_folder_that_is_named(tmp_path: Path) -> None:
    spec = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    kind = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    schema["openAPIV3Schema"]["properties"] |= kind  # type: ignore[operator,index]
    definition = {"spec": {"versions": [{"name": "v1", "schema": schema}]}}
    (tmp_path / "example.com_crates.yaml").write_text(yaml.dump(definition))
    file = tmp_path / "crate.yaml"
    file.write_text("apiVersion: example.com/v1\nkind: Crate\nmetadata: {name: c}\nspec: {seize: 3}\n")
    code, out = run(str(file), "--crds", str(tmp_path))
    assert code == 2
    assert "spec.seize: unknown field 'seize'. Did you mean 'size'?" in out
    assert "spec.size: is missing; fill it in" in out


def test_a_deployment_gets_the_rules_of_pods(tmp_path: Path) -> None:
    pod = {"containers": [{"name": "c", "securityContext": {"privileged": True}}]}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    value = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec}
    (tmp_path / "f.yaml").write_text(yaml.dump(value))
    code, out = run(str(tmp_path / "f.yaml"))
    assert code == 2
    assert "spec.template.spec.containers[0].securityContext.privileged: the container controls the node" in out


def test_the_values_of_secrets_are_not_repeated(tmp_path: Path) -> None:
    text = (CLUSTER / "kuberay/train.yaml").read_text()
    text = text.replace('"90" }', '"90" }\n                - { name: DB_PASSWORD, value: hunter2 }', 1)
    (tmp_path / "f.yaml").write_text(text)
    code, out = run(str(tmp_path / "f.yaml"))
    assert code == 2
    assert "DB_PASSWORD looks like a secret" in out
    assert "hunter2" not in out


def test_what_a_file_holds_cannot_steer_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_text('apiVersion: v1\nkind: "\\e[31m\\nRayJob"\n')
    code, out = run(str(tmp_path / "f.yaml"))
    assert code == 2
    assert "\x1b" not in out
    assert all(line.startswith(f"{tmp_path}/f.yaml:") for line in out.splitlines())
