"""Rule files and dashboards: what is refused, what promtool says of the rules, and whether the alerts fire."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from derm_ray.operations.cluster.queries import exported_metrics
from tests.cluster.conftest import CLUSTER, GONE, Changed, Validate
from tests.cluster.test_mistakes import assert_refused

RULES, BOARD, MONITOR = "prometheus/training.yaml", "grafana/training.json", "kuberay/monitoring.yaml"
RULE, PANEL = "groups[0].rules[0]", "panels[1]"
EXPR = f"{PANEL}.targets[0].expr"
RATE = "sum by (run) (rate(ray_derm_ray_train_pairs_total{run=~'$run'}[5m]))"
REFUSED: list[tuple[str, str, Any, str]] = [
    (RULES, f"{RULE}.expr", "rate(ray_derm_ray_train_pears_total[5m]) > 0", "unknown metric 'ray_derm_ray_train_pears_total'. Did you mean 'ray_derm_ray_train_pairs_total'?"),
    (RULES, f"{RULE}.expr", "ray_derm_ray_train_pairs_total{runs='a'} > 0", "ray_derm_ray_train_pairs_total has no label 'runs'; it has"),
    (RULES, f"{RULE}.expr", "sum by (rnu) (ray_derm_ray_train_pairs_total) > 0", "none of its metrics has a label 'rnu'"),
    (RULES, f"{RULE}.expr", "ray_node_mem_used / on (node) ray_node_mem_total", "none of its metrics has a label 'node'"),
    (RULES, f"{RULE}.expr", "sum(rate(ray_node_mem_used[5m])", "is not PromQL"),
    (RULES, f"{RULE}.expr", "rate(ray_node_mem_used)", "is not PromQL"),
    (RULES, f"{RULE}.expr", "ray_node_mem_used > $limit", "there is no variable $limit"),
    (RULES, f"{RULE}.expr", 3, "groups[0].rules[0].expr: 3 is not string"),
    (RULES, f"{RULE}.fro", "5m", "groups[0].rules[0].fro: unknown field 'fro'. Did you mean 'for'?"),
    (RULES, f"{RULE}.for", "ten minutes", "does not match"),
    (RULES, f"{RULE}.labels.severity", "page", "severity: nobody knows whom to wake; choose one of: critical"),
    (RULES, f"{RULE}.annotations.description", GONE, "annotations.description: is missing; say how it is mended"),
    (RULES, f"{RULE}.expr", "(" * 100_000 + "up" + ")" * 100_000, "expr: has 200002 characters, more than 4000"),
    (RULES, f"{RULE}.record", "a:b", "is neither an alert nor a recording"),
    (RULES, "groups[0].rules[1].alert", "DermRayTrainingStalled", "the alert DermRayTrainingStalled stands 2 times"),
    (BOARD, EXPR, "rate(ray_derm_ray_train_pears_total[$__rate_interval])", "unknown metric 'ray_derm_ray_train_pears_total'"),
    (BOARD, EXPR, RATE.replace("$run", "$rnu"), "there is no variable $rnu"),
    (BOARD, "templating.list[2].query", "label_values(ray_derm_ray_train_starts_total, rnu)", "none of its metrics has a label 'rnu'"),
    (BOARD, "templating.list[2].query", "runs", "is not label_values(SELECTOR, LABEL)"),
    (BOARD, "templating.list[2].datasource", GONE, "datasource: is missing; say which Prometheus"),
    (BOARD, f"{PANEL}.datasource.uid", "prometheus", "datasource.uid: "),
    (BOARD, f"{PANEL}.datasource", GONE, "panels[1].datasource: is missing"),
    (BOARD, f"{PANEL}.fieldConfig.defaults.unit", "pairs", "unit: 'pairs' does not match"),
    (BOARD, f"{PANEL}.description", GONE, "panels[1].description: is missing"),
    (BOARD, f"{PANEL}.id", 1, "is another panel's too"),
    (BOARD, f"{PANEL}.gridPos.x", 21, "reaches beyond the 24 columns"),
    (BOARD, f"{PANEL}.gridPos.x", 1, "lies on another panel"),
    (BOARD, f"{PANEL}.typ", "stat", "panels[1].typ: unknown field 'typ'. Did you mean 'type'?"),
    (BOARD, "schemaVersion", 27, "schemaVersion: 27 is less than"),
    (MONITOR, "spec.podMetricsEndpoints[0].prot", "metrics", "unknown field 'prot'. Did you mean 'port'?"),
]  # fmt: skip


@pytest.fixture
def promtool() -> str:
    """Prometheus' own check."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not there: install Debian's package prometheus")
    return path


@pytest.mark.parametrize(("file", "path", "value", "message"), REFUSED)
def test_what_is_refused(file: str, path: str, value: Any, message: str, changed: Changed) -> None:
    assert_refused(changed(file, path, value), message)


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        (BOARD, EXPR, RATE),
        (BOARD, EXPR, RATE.replace("[5m]", "[$__rate_interval]").replace("$run", "${run:regex}")),
        (RULES, f"{RULE}.expr", 'label_replace(ray_train_controller_state, "a", "$1", "ray_train_run_name", "(.*)") unless on (a) up'),
        (RULES, "groups[0].rules[1]", {"record": "derm_ray:memory", "expr": "sum by (instance) (ray_node_mem_used)"}),
    ],
)  # fmt: skip
def test_what_is_sound(file: str, path: str, value: Any, changed: Changed) -> None:
    assert changed(file, path, value) == []


def test_a_rule_may_use_what_another_one_records(validate: Validate) -> None:
    rules = [
        {"record": "derm_ray:memory", "expr": "sum by (instance) (ray_node_mem_used)"},
        {"record": "derm_ray:most", "expr": "max without (instance) (derm_ray:memory)"},
    ]
    assert validate(yaml.dump({"groups": [{"name": "a", "rules": rules}]})) == []
    assert_refused(validate(yaml.dump({"groups": [{"name": "a", "rules": rules[1:]}]})), "unknown metric 'derm_ray:mem")


def test_the_same_rules_are_checked_in_an_object_of_kubernetes(validate: Validate) -> None:
    rules = {"groups": [{"name": "a", "rules": [{"alert": "Alarm", "expr": "ray_node_mem_usedd > 0"}]}]}
    own = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "a"}, "spec": rules}
    found = validate(yaml.dump(own))
    assert_refused(found, "unknown metric 'ray_node_mem_usedd'. Did you mean 'ray_node_mem_used'?")
    assert_refused(found, "spec.groups[0].rules[0].labels.severity: nobody knows")


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


def test_promtool_takes_the_rules(promtool: str) -> None:
    files = [str(path) for path in CLUSTER.glob("prometheus/*.yaml")]
    done = subprocess.run([promtool, "check", "rules", *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


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
