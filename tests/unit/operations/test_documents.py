"""YAML is read as Kubernetes reads it, and every value knows its line."""

from typing import Any

import pytest

from derm_ray.operations.cluster.documents import Document, Problem, read_documents, write_path


def read(text: str) -> tuple[list[Document], list[Problem]]:
    problems: list[Problem] = []
    return read_documents(text, "f.yaml", problems), problems


def refused(document: Document, *path: str | int) -> str:
    document.refuse(path, "what", "fix")
    return str(document.problems[-1])


def test_every_value_of_every_document_knows_its_line() -> None:
    (first, second), problems = read("# head\na: 1\nb:\n  - c: x\n  - d: y\n---\ne:\n  f: z\n")
    assert problems == []
    assert first.value == {"a": 1, "b": [{"c": "x"}, {"d": "y"}]}
    assert refused(first, "b", 1, "d") == "f.yaml:5: b[1].d: what; fix"
    assert refused(first, "b", 1, "gone", "deeper") == "f.yaml:5: b[1].gone.deeper: what; fix"
    assert refused(first) == "f.yaml:2: the document: what; fix"
    assert refused(second, "e", "f") == "f.yaml:8: e.f: what; fix"


def test_a_text_inside_tells_the_files_own_lines() -> None:
    (outer,), problems = read("spec:\n  config: |\n    # comment\n    a:\n      b: 1\n    c: [\n")
    outer.root.at("spec", "config").documents()
    assert [str(problem).split(" (")[0] for problem in problems] == [
        "f.yaml:7: spec.config > the document: this is not YAML"
    ]
    (outer,), problems = read("spec:\n  config: |\n    # comment\n    a:\n      b: 1\n")
    (inner,) = outer.root.at("spec", "config").documents()
    assert refused(inner, "a", "b") == "f.yaml:5: spec.config > a.b: what; fix"
    assert problems == outer.problems == inner.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2026-11-24", {"a": "2026-11-24"}),
        ("a: 2026-06-31", {"a": "2026-06-31"}),
        ("a: yes", {"a": True}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: &x {b: 1}\nc: &y {b: 2}\nd: {<<: [*x, *y]}", {"a": {"b": 1}, "c": {"b": 2}, "d": {"b": 1}}),
        ('{"a": [1, null, "x"]}', {"a": [1, None, "x"]}),
    ],
)
def test_values_are_those_of_json(text: str, value: Any) -> None:
    (document,), problems = read(text)
    assert document.value == value
    assert problems == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "f.yaml:3: a: appears twice"),
        ("a:\n  1: x", "f.yaml:2: a.1: this key is not text"),
        ("a: b\n c: d", "f.yaml:2: the document: this is not YAML"),
        ("a: !!python/object:os.system x", "f.yaml:1: the document: this is not YAML"),
        ("a: 1\n---\nb: !secret x", "f.yaml:3: the document: this is not YAML"),
        ("a: \x07", "f.yaml:1: the document: this is not YAML"),
        ("[" * 5_000, "nested too deeply"),
        ("a: &x [*x]", "nested too deeply"),
        ("a: *x", "f.yaml:1: the document: this is not YAML"),
    ],
)
def test_what_no_cluster_file_should_hold_is_one_problem(text: str, message: str) -> None:
    _, problems = read(text)
    assert len(problems) == 1
    assert message in str(problems[0])


def test_empty_documents_are_left_out() -> None:
    assert read("---\n---\n# nothing\n") == ([], [])
    assert len(read("---\na: 1\n---\n")[0]) == 1


def test_paths_are_written_as_people_write_them() -> None:
    assert write_path(("spec", "groups", 0, "limits", "nvidia.com/gpu")) == "spec.groups[0].limits['nvidia.com/gpu']"
