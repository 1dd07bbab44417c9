"""Rules for Prometheus rule files and Grafana dashboards."""

from collections import Counter
from itertools import combinations
from typing import Any

from derm_ray.operations.cluster.documents import Document, Part
from derm_ray.operations.cluster.queries import check_label_query, check_query
from derm_ray.operations.cluster.schema import check_schema

SEVERITIES = ("critical", "warning", "info")


def is_rule_file(value: Any) -> bool:
    """Tell whether a document is a rule file of Prometheus'."""
    return isinstance(value, dict) and "groups" in value and "kind" not in value


def is_dashboard(value: Any) -> bool:
    """Tell whether a document is a dashboard of Grafana's."""
    return isinstance(value, dict) and "panels" in value and "kind" not in value


def check_rule_file(document: Document) -> None:
    """Note what is wrong with a rule file of Prometheus'."""
    check_schema(document, "RuleFile")
    check_rules(document.root)


def check_rules(holder: Part) -> None:
    """Note what is wrong with groups of rules.

    Args:
        holder: of ``groups``: a rule file, or the spec of a PrometheusRule.
    """
    rules = [rule for group in holder.items("groups") for rule in group.items("rules")]
    times = Counter(rule.at("alert").text for rule in rules if rule.at("alert").text)
    recorded = {rule.at("record").text for rule in rules}
    for rule in rules:
        alert = rule.at("alert")
        if alert.exists == rule.at("record").exists:
            rule.refuse("is neither an alert nor a recording", "give one of alert and record")
        elif alert.exists:
            _check_alert(rule)
            if times[alert.text] > 1:
                alert.refuse(f"the alert {alert.text} stands {times[alert.text]} times", "give each a name of its own")
        check_query(rule.at("expr"), recorded=recorded)


def _check_alert(rule: Part) -> None:
    severity = rule.at("labels", "severity")
    if severity.value not in SEVERITIES:
        severity.refuse("nobody knows whom to wake", f"choose one of: {', '.join(SEVERITIES)}")
    for name, mend in (("summary", "say in one line what is wrong"), ("description", "say how it is mended")):
        if not rule.at("annotations", name).text.strip():
            rule.at("annotations", name).refuse("is missing", mend)


def check_dashboard(document: Document) -> None:
    """Note what is wrong with a dashboard of Grafana's."""
    check_schema(document, "Dashboard")
    variables = [variable.at("name").text for variable in document.root.items("templating", "list")]
    for variable in document.root.items("templating", "list"):
        if variable.at("type").value == "query":
            if not variable.at("datasource").exists:
                variable.at("datasource").refuse("is missing", "say which Prometheus")
            check_label_query(variable.at("query"), variables=variables)
    panels = document.root.items("panels")
    ids = Counter(panel.at("id").number for panel in panels)
    for panel in panels:
        if ids[panel.at("id").number] > 1:
            panel.at("id").refuse("is another panel's too", "number panels differently")
        for target in panel.items("targets"):
            check_query(target.at("expr"), variables=variables)
    _check_places(panels)


def _check_places(panels: list[Part]) -> None:
    """Check that no panel lies on another one, or beyond the 24 columns."""
    places = []
    for panel in panels:
        x, y, w, h = (panel.at("gridPos", side).number or 0 for side in "xywh")
        if x + w > 24:
            panel.at("gridPos").refuse("reaches beyond the 24 columns", "make it narrower")
        places.append((panel, x, y, w, h))
    for (_, x, y, w, h), (panel, left, top, width, height) in combinations(places, 2):
        if x < left + width and left < x + w and y < top + height and top < y + h:
            panel.at("gridPos").refuse("lies on another panel", "move it")
