"""Cluster files, recognized and checked; reports all problems of all files at once."""

from dataclasses import dataclass
from pathlib import Path

from derm_ray.errors import unknown_name
from derm_ray.operations.cluster.commands import CommandCheck
from derm_ray.operations.cluster.documents import Document, Problem, read_documents
from derm_ray.operations.cluster.kuberay import check_cluster, check_job
from derm_ray.operations.cluster.kubernetes import check_object
from derm_ray.operations.cluster.launcher import check_launcher, is_launcher
from derm_ray.operations.cluster.prometheus import check_rules, is_rule_file
from derm_ray.operations.cluster.rayservice import check_serve_config, check_service
from derm_ray.operations.cluster.schemas import RAY_GROUP, check_schema

RAY_KINDS = ("RayCluster", "RayJob", "RayService", "RayCronJob")
RAY_API = f"{RAY_GROUP}/v1"


@dataclass(frozen=True)
class FileReport:
    """The result for one file.

    Attributes:
        file: as given.
        contents: one description per document, such as ``RayJob derm-ray-train``.
        problems: in the order of lines.
        unchecked: what could not be checked here, and how to have it checked.
    """

    file: str
    contents: tuple[str, ...]
    problems: tuple[Problem, ...]
    unchecked: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """The report as text: each problem, or that there is none, and what was not checked."""
        lines = [str(problem) for problem in self.problems] or [f"{self.file}: {', '.join(self.contents)}: no problems"]
        return [*lines, *(f"{self.file}: not checked: {one}" for one in self.unchecked)]


def validate_file(path: str, check: CommandCheck, crds: str | None = None) -> FileReport:
    """Check a cluster file: for KubeRay, Kubernetes, Ray Serve, Ray's cluster launcher or Prometheus.

    Args:
        path: of a local file.
        check: of the command lines in it.
        crds: folder of definitions of custom resources, see :func:`derm_ray.operations.cluster.schemas.check_schema`.

    Raises:
        ConfigError: the folder cannot be used.
    """
    problems: list[Problem] = []
    results: list[tuple[str, str]] = []
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        problems.append(Problem(path, 1, "the file", f"cannot be read ({error.strerror})", "name a file"))
    except UnicodeDecodeError:
        problems.append(Problem(path, 1, "the file", "is not text", "name a YAML file in UTF-8"))
    else:
        documents = read_documents(text, path, problems)
        if not documents and not problems:
            problems.append(Problem(path, 1, "the file", "is empty", "name a file with content"))
        results = [check_document(document, check, crds) for document in documents]
    contents, unchecked = [content for content, _ in results], [reason for _, reason in results if reason]
    return FileReport(path, tuple(contents), tuple(sorted(set(problems))), tuple(dict.fromkeys(unchecked)))


def check_document(document: Document, check: CommandCheck, crds: str | None = None) -> tuple[str, str]:
    """Check one document by what it is.

    Returns:
        What it is, and what was not checked (empty where everything was).
    """
    value = document.value
    if is_launcher(value):
        check_launcher(document)
        return f"launcher {value['cluster_name']}", ""
    if isinstance(value, dict) and "applications" in value and "kind" not in value:
        check_serve_config(document)
        return "Serve config", ""
    if is_rule_file(value):
        reason = check_rules(document.root)
        return "Prometheus rules", f"Prometheus rules: {reason}" if reason else ""
    kind = value.get("kind") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        document.refuse(
            (),
            "is neither a Kubernetes object, nor a file of Ray Serve, of `ray up` or of Prometheus rules",
            "see cluster/ for examples",
        )
        return "unknown", ""
    if kind == "Secret":
        document.refuse(
            ("kind",), "a secret does not belong in a file", "create it with kubectl create secret, and refer to it"
        )
        return "Secret", ""
    return _check_kubernetes(document, kind, check, crds)


def _check_kubernetes(document: Document, kind: str, check: CommandCheck, crds: str | None) -> tuple[str, str]:
    root = document.root
    name = f"{kind} {root.at('metadata', 'name').text}"
    api = root.at("apiVersion")
    if api.text.startswith(f"{RAY_GROUP}/") and kind not in RAY_KINDS:
        problem = unknown_name("kind", kind, RAY_KINDS).split(" Known: ")[0].rstrip(".")
        root.at("kind").refuse(problem, f"known: {', '.join(RAY_KINDS)}")
        return name, ""
    if kind in RAY_KINDS and api.value != RAY_API:
        api.refuse(f"{api.value!r} has no {kind}", f"set apiVersion: {RAY_API}")
        return name, ""
    reason = check_schema(document, crds)
    unchecked = f"the fields of {name}: {reason}" if reason else ""
    if not any(root.at("metadata", field).text for field in ("name", "generateName")):
        root.at("metadata", "name").refuse("is missing", "fill it in")
    spec = root.at("spec")
    if kind == "RayCluster":
        check_cluster(spec)
    elif kind == "RayJob":
        check_job(spec, check)
    elif kind == "RayCronJob":
        check_job(spec.at("jobTemplate"), check)
    elif kind == "RayService":
        check_service(spec)
    elif kind == "PrometheusRule":
        reason = check_rules(spec)
        unchecked = f"the rules of {name}: {reason}" if reason else ""
    else:
        check_object(document, kind)
    return name, unchecked
