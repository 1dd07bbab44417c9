"""The metrics that our PromQL asks for, and those that Ray and derm_ray export."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
LIST = Path(__file__).parent / "metrics.yaml"
TARGET_LABELS = frozenset(
    [
        "container",
        "endpoint",
        "instance",
        "job",
        "namespace",
        "pod",
        "ray_io_cluster",
        "ray_io_group",
        "ray_io_node_type",
    ]
)
"""Labels that Prometheus, or our PodMonitor, puts on every series."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::\w+)?\}|\$([A-Za-z_]\w*)")


@cache
def exported_metrics() -> Mapping[str, frozenset[str]]:
    """Metric -> its own labels: those of a real scrape, and those that take a GPU or a failure."""
    listed = yaml.safe_load(LIST.read_text())
    found = {name: frozenset(labels) for name, labels in listed["seen"].items()}
    return found | {name: frozenset(entry["labels"]) for name, entry in listed["unseen"].items()}


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted(CLUSTER.glob("grafana/*.json"))}


def rules() -> list[dict[str, Any]]:
    files = [yaml.safe_load(path.read_text()) for path in sorted(CLUSTER.glob("prometheus/*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Every query of dashboards and rules."""
    for board in dashboards().values():
        yield from (target["expr"] for panel in board["panels"] for target in panel["targets"])
    yield from (rule["expr"] for rule in rules())


def variables_of(text: str) -> list[str]:
    """The dashboard variables in a text, without Grafana's own."""
    names = [braced or bare for braced, bare in _VARIABLE.findall(text)]
    return [name for name in names if not name.startswith("__")]


def selectors(text: str) -> list[promql_parser.VectorSelector]:
    """The metrics that a query selects; raises where it is not PromQL."""
    filled = _VARIABLE.sub(lambda found: "5m" if (found[1] or found[2]).startswith("__") else "value", text)
    nodes: list[Any] = []
    promql_parser.walk(promql_parser.parse(filled), pre_visit=nodes.append)
    return [node for node in nodes if isinstance(node, promql_parser.VectorSelector)]


def asked() -> set[str]:
    """The metrics that our queries name, except recorded ones."""
    names = {str(node.name) for text in expressions() for node in selectors(text)}
    return {name for name in names if ":" not in name}
