"""PromQL in cluster files, held against the metrics that Ray and derm_ray export."""

import re
from collections.abc import Container, Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import promql_parser
import yaml

from derm_ray.errors import unknown_name
from derm_ray.operations.cluster.documents import Part

_TARGET = ("container", "endpoint", "instance", "job", "namespace", "pod")
TARGET_LABELS = frozenset([*_TARGET, "ray_io_cluster", "ray_io_group", "ray_io_node_type"])
"""Labels that Prometheus, or our PodMonitor, puts on every series."""
MAX_QUERY = 4000
"""Characters of a query: the parser ends the process on tens of thousands of brackets."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)(?::\w+)?\}|\$([A-Za-z_]\w*)")
_OF_LABELS = re.compile(r"label_values\((?P<selector>.+),\s*(?P<label>\w+)\s*\)")


@cache
def exported_metrics() -> Mapping[str, frozenset[str]]:
    """Return the metrics that are there to be asked for, name -> its own labels.

    ``metrics.yaml`` holds those of a real scrape, and those that take a GPU or a failure, with where their source is.
    """
    listed = yaml.safe_load((files(__package__) / "metrics.yaml").read_text())
    found = {name: frozenset(labels) for name, labels in listed["seen"].items()}
    return found | {name: frozenset(entry["labels"]) for name, entry in listed["unseen"].items()}


def check_query(query: Part, *, variables: Iterable[str] = (), recorded: Container[str] = ()) -> None:
    """Note what a query asks for in vain: a metric, or a label, that nobody exports; and what is no PromQL.

    Args:
        query: its text.
        variables: of the dashboard; ``$__rate_interval`` and its like are Grafana's own.
        recorded: metrics that rules of the same file record, of any labels.
    """
    for name in variables_of(query.text):
        if name not in variables and not name.startswith("__"):
            query.refuse(f"there is no variable ${name}", "add it to the dashboard's templating, or leave it out")
    if len(query.text) > MAX_QUERY:
        query.refuse(f"has {len(query.text)} characters, more than {MAX_QUERY}", "let rules record parts of it")
        return
    try:
        tree = promql_parser.parse(_filled_in(query.text))
    except ValueError as error:
        query.refuse(f"is not PromQL ({str(error).strip()})", "mend the query")
        return
    metrics = exported_metrics()
    known, asked, made = set(TARGET_LABELS), set[str](), set[str]()
    for node in _nodes(tree):
        if isinstance(node, promql_parser.VectorSelector):
            name = node.name or ""
            if name in recorded:
                return
            if name not in metrics:
                hint = unknown_name("metric", name, tuple(metrics)).split(" Known: ")[0].rstrip(".")
                query.refuse(hint, "name a metric of metrics.yaml")
                continue
            known |= metrics[name]
            for matcher in node.matchers.matchers:
                if matcher.name not in metrics[name] | TARGET_LABELS:
                    query.refuse(f"{name} has no label {matcher.name!r}", f"it has {_listed(metrics[name])}")
        elif isinstance(node, promql_parser.Call) and node.func.name in ("label_replace", "label_join"):
            made.add(node.args[1].val)
        else:
            asked |= _labels_of(node)
    for label in sorted(asked - known - made):
        query.refuse(f"none of its metrics has a label {label!r}", f"they have {_listed(known - TARGET_LABELS)}")


def check_label_query(query: Part, *, variables: Iterable[str] = ()) -> None:
    """Note what is wrong with ``label_values(SELECTOR, LABEL)``, which fills a dashboard's variable."""
    found = _OF_LABELS.fullmatch(query.text)
    if found is None:
        query.refuse("is not label_values(SELECTOR, LABEL)", "say where its values come from")
        return
    selector = Part(query.document, query.path, f"sum by ({found['label']}) ({found['selector']})")
    check_query(selector, variables=variables)


def variables_of(text: str) -> list[str]:
    """Return the Grafana variables in a text, as often as they stand there."""
    return [braced or bare for braced, bare in _VARIABLE.findall(text)]


def _filled_in(text: str) -> str:
    """Put something in place of each variable: a time for those of Grafana, which stand in brackets."""
    return _VARIABLE.sub(lambda found: "5m" if (found[1] or found[2]).startswith("__") else "value", text)


def _nodes(tree: promql_parser.Expr) -> list[promql_parser.Expr]:
    """Return every expression of a query."""
    found: list[promql_parser.Expr] = []
    promql_parser.walk(tree, pre_visit=found.append)
    return found


def _labels_of(node: Any) -> set[str]:
    """Return the labels that an aggregation or a join names."""
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr):
        return set(modifier.labels) if modifier else set()
    if isinstance(node, promql_parser.BinaryExpr) and modifier and modifier.matching:
        return set(modifier.matching.labels)
    return set()


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(sorted(labels)) or "none of its own"
