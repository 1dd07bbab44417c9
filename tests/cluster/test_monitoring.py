"""Rule files and dashboards: what is refused, what they ask for, and whether the alerts fire."""

import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import queries
from tests.cluster.conftest import CLUSTER, Changed, Validate
from tests.cluster.queries import TARGET_LABELS, dashboards, exported_metrics, selectors, variables_of
from tests.cluster.test_mistakes import assert_refused

RULES, RULE = "prometheus/training.yaml", "groups[0].rules[0]"
REFUSED: list[tuple[str, Any, str]] = [
    (f"{RULE}.expr", "sum(rate(ray_node_mem_used[5m])", "groups[0].rules[0]: could not parse expression"),
    (f"{RULE}.expr", "rate(ray_node_mem_used)", "groups[0].rules[0]: could not parse expression"),
    ("groups[0].rules[1].expr", "up >", "groups[0].rules[1]: could not parse expression"),
    (f"{RULE}.fro", "5m", "groups: field fro not found in type rulefmt.RuleNode; see Prometheus'"),
    (f"{RULE}.for", "ten minutes", "groups: not a valid duration string"),
    (f"{RULE}.record", "a:b", "groups[0].rules[0]: only one of 'record' and 'alert' must be set"),
]


@pytest.fixture
def promtool() -> str:
    """Prometheus' own check."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not there: install Debian's package prometheus")
    return path


@pytest.mark.usefixtures("promtool")
@pytest.mark.parametrize(("path", "value", "message"), REFUSED)
def test_what_promtool_refuses(path: str, value: Any, message: str, changed: Changed) -> None:
    assert_refused(changed(RULES, path, value), message)


@pytest.mark.usefixtures("promtool")
def test_the_same_rules_are_checked_in_an_object_of_kubernetes(validate: Validate) -> None:
    rules = {"groups": [{"name": "a", "rules": [{"alert": "Alarm", "expr": "rate(up) > 0"}]}]}
    own = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "a"}, "spec": rules}
    assert_refused(validate(yaml.dump(own)), "spec.groups[0].rules[0]: could not parse expression")
    assert_refused(validate(yaml.dump(own | {"spec": {}})), "spec.groups: there are no rules")


@pytest.mark.parametrize("expression", list(queries.expressions()))
def test_our_queries_ask_for_metrics_and_labels_that_are_exported(expression: str) -> None:
    metrics, recorded = exported_metrics(), {rule.get("record") for rule in queries.rules()}
    for selector in selectors(expression):
        if selector.name in recorded:
            continue
        assert selector.name in metrics
        labels = {matcher.name for matcher in selector.matchers.matchers}
        assert labels <= metrics[selector.name] | TARGET_LABELS


@pytest.mark.parametrize("name", list(dashboards()))
def test_a_dashboard_has_its_variables_and_no_panel_lies_on_another(name: str) -> None:
    board = dashboards()[name]
    known = {variable["name"] for variable in board["templating"]["list"]}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert {one for target in panel["targets"] for one in variables_of(target["expr"])} <= known
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, two in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]


def test_every_alert_says_whom_to_wake_and_what_to_do() -> None:
    alerts = [rule for rule in queries.rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_what_the_page_says_makes_an_object_of_each_rule_file(tmp_path: Path, validate: Validate) -> None:
    page = (CLUSTER.parent / "docs" / "guides" / "monitoring.md").read_text()
    command = page.split("<!-- rules -->\n```\n")[1].split("```")[0]
    (tmp_path / "kubectl").write_text('#!/bin/sh\ncat > "applied-$$.yaml"\n')
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "cluster").symlink_to(CLUSTER)
    subprocess.run(["bash", "-euc", f"PATH=$PWD:$PATH\n{command}"], cwd=tmp_path, check=True, timeout=30)
    made = sorted(tmp_path.glob("applied-*.yaml"))
    assert len(made) == len(list(CLUSTER.glob("prometheus/*.yaml")))
    assert {yaml.safe_load(path.read_text())["kind"] for path in made} == {"PrometheusRule"}
    assert [validate(path) for path in made] == [[] for _ in made]


def test_the_page_names_every_alert() -> None:
    page = (CLUSTER.parent / "docs" / "reference" / "alerts.md").read_text()
    alerts = {
        rule["alert"]
        for path in CLUSTER.glob("prometheus/*.yaml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    named = {row.split("`")[1] for row in page.splitlines() if row.startswith("| `DermRay")}
    assert named == alerts


def test_alerts_fire_on_what_they_name_and_not_on_what_they_do_not(promtool: str, tmp_path: Path) -> None:
    for path in CLUSTER.glob("prometheus/*.yaml"):
        rules = yaml.safe_load(path.read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("annotations", None)  # promtool compares them word by word
        (tmp_path / path.name).write_text(yaml.dump(rules))
    cases = (Path(__file__).parent / "alerts.yaml").read_text().replace("RULES", str(tmp_path))
    (tmp_path / "cases.yaml").write_text(cases)
    done = subprocess.run(
        [promtool, "test", "rules", str(tmp_path / "cases.yaml")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_of_ours_is_tried() -> None:
    tried = (Path(__file__).parent / "alerts.yaml").read_text()
    for name in ("training", "bulk", "serving", "nodes"):
        for group in yaml.safe_load((CLUSTER / f"prometheus/{name}.yaml").read_text())["groups"]:
            for rule in group["rules"]:
                assert f"alertname: {rule['alert']}\n" in tried


def test_the_list_holds_our_metrics_with_their_labels() -> None:
    metrics = exported_metrics()
    assert metrics["ray_derm_ray_requests_total"] >= {"route", "status", "application"}
    assert metrics["ray_derm_ray_bulk_errors_total"] >= {"run", "code"}
