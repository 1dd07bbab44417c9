"""Cluster files, recognised and checked, all problems of all files at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from derm_ray.errors import unknown_name
from derm_ray.operations.cluster.commands import CommandCheck
from derm_ray.operations.cluster.documents import Document, Problem, read_documents
from derm_ray.operations.cluster.launcher import check_launcher, is_launcher
from derm_ray.operations.cluster.monitoring import check_dashboard, check_rule_file, is_dashboard, is_rule_file
from derm_ray.operations.cluster.objects import check_object
from derm_ray.operations.cluster.raycluster import check_cluster
from derm_ray.operations.cluster.rayjob import check_job, check_schedule
from derm_ray.operations.cluster.rayservice import check_serve_config, check_service
from derm_ray.operations.cluster.schema import check_schema, own_kinds

# Names become those of services and pods, which Kubernetes bounds at 63 (KubeRay's utils/constant.go). A RayCronJob's
# jobs are named by it and a time, so that it gets eleven characters less than a RayJob; that bound is ours.
MAX_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}


@dataclass(frozen=True)
class FileReport:
    """What one file holds.

    Attributes:
        file: as it was named.
        contents: one description a document, such as ``RayJob derm-ray-train``.
        problems: by line.
    """

    file: str
    contents: tuple[str, ...]
    problems: tuple[Problem, ...]

    @property
    def lines(self) -> list[str]:
        """What is to be said of it: each problem, or that there is none."""
        return [str(problem) for problem in self.problems] or [f"{self.file}: {', '.join(self.contents)}: sound"]


def validate_files(paths: Sequence[str], check: CommandCheck) -> list[FileReport]:
    """Check cluster files: KubeRay's, Kubernetes', Ray Serve's, Ray's launcher's, Prometheus' and Grafana's.

    Args:
        paths: local files.
        check: of the command lines in them.

    Returns:
        One report a file, in that order.

    Raises:
        ConfigError: see :func:`derm_ray.operations.cluster.schema.check_schema`.
    """
    return [_validate(path, check) for path in paths]


def _validate(path: str, check: CommandCheck) -> FileReport:
    problems: list[Problem] = []
    contents: list[str] = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        problems.append(Problem(path, 1, "the file", f"cannot be read ({error.strerror})", "name a file"))
    except UnicodeDecodeError:
        problems.append(Problem(path, 1, "the file", "is no text", "name a YAML file in UTF-8"))
    else:
        documents = read_documents(text, path, problems)
        if not documents and not problems:
            problems.append(Problem(path, 1, "the file", "is empty", "name a file that holds something"))
        contents = [check_document(document, check) for document in documents]
    return FileReport(path, tuple(contents), tuple(sorted(set(problems))))


def check_document(document: Document, check: CommandCheck) -> str:
    """Check one document by what it is; return what that is."""
    value = document.value
    if is_launcher(value):
        check_launcher(document)
        return f"launcher {value['cluster_name']}"
    if isinstance(value, dict) and "applications" in value and "kind" not in value:
        check_serve_config(document)
        return "Serve config"
    if is_rule_file(value):
        check_rule_file(document)
        return "Prometheus rules"
    if is_dashboard(value):
        check_dashboard(document)
        return f"dashboard {document.root.at('uid').text}"
    kind = value.get("kind") if isinstance(value, dict) else None
    if kind is None:
        document.refuse(
            (),
            "is neither a Kubernetes object, nor a file of Serve, `ray up`, Prometheus' rules or Grafana's dashboards",
            "see cluster/",
        )
        return "unknown"
    if kind == "Secret":
        document.refuse(
            ("kind",), "a secret does not belong in a file", "make it by kubectl create secret, and refer to it"
        )
        return "Secret"
    kinds = own_kinds()
    if not isinstance(kind, str) or kind not in kinds:
        what = unknown_name("kind", str(kind), tuple(kinds)).split(" Known: ")[0].rstrip(".")
        document.refuse(("kind",), what, f"known: {', '.join(kinds)}")
        return str(kind)
    if value.get("apiVersion") != kinds[kind]:
        document.refuse(("apiVersion",), f"{value.get('apiVersion')!r} has no {kind}", f"say {kinds[kind]}")
    check_schema(document, kind)
    _check_name(document, kind)
    _check_kind(document, kind, check)
    return f"{kind} {document.root.at('metadata', 'name').text}"


def _check_kind(document: Document, kind: str, check: CommandCheck) -> None:
    spec = document.root.at("spec")
    if kind == "RayCluster":
        check_cluster(spec)
    elif kind == "RayJob":
        check_job(spec, check)
    elif kind == "RayCronJob":
        check_schedule(spec)
        check_job(spec.at("jobTemplate"), check)
    elif kind == "RayService":
        check_service(document)
    else:
        check_object(document, kind)


def _check_name(document: Document, kind: str) -> None:
    name: Any = document.root.at("metadata", "name")
    most = MAX_NAME.get(kind)
    if most is None or not name.text:
        return
    if len(name.text) > most:
        name.refuse(f"has {len(name.text)} characters, a {kind} may have {most}", "shorten it")
    if not name.text[0].isalpha() or "." in name.text:
        name.refuse("must begin with a letter and hold letters, digits and '-'", "rename it")
