"""Prometheus rules, checked by Prometheus' own ``promtool`` where it is installed."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from derm_ray.operations.cluster.documents import Part

TIMEOUT_S = 60
_POSITION = re.compile(r"^(?:.*rules\.json: )?(?:\d+:\d+: )*(?:line \d+: )?")
_RULE = re.compile(r'group "(?P<group>[^"]*)", rule (?P<rule>\d+), [^:]*: ')


def is_rule_file(value: Any) -> bool:
    """Return whether a document is a rule file of Prometheus."""
    return isinstance(value, dict) and "groups" in value and "kind" not in value


def check_rules(holder: Part) -> str:
    """Report what ``promtool check rules`` refuses.

    Args:
        holder: of ``groups``: a rule file, or the ``spec`` of a PrometheusRule.

    Returns:
        Why the rules were not checked; empty where they were.
    """
    if not holder.items("groups"):
        holder.at("groups").refuse("there are no rules", "give groups of rules")
        return ""
    promtool = shutil.which("promtool")
    if promtool is None:
        return "install Prometheus' promtool"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rules.json"  # promtool reads YAML, of which JSON is a part
        file.write_text(json.dumps(holder.value, default=str))
        try:
            done = subprocess.run(  # noqa: S603
                [promtool, "check", "rules", "--lint=none", str(file)],
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{promtool} failed ({type(error).__name__})"
    if done.returncode:
        for line in done.stderr.splitlines():
            if (message := _POSITION.sub("", line.strip())) and message not in ("FAILED:", "yaml: unmarshal errors:"):
                _refuse(holder, message)
    return ""


def _refuse(holder: Part, message: str) -> None:
    found = _RULE.match(message)
    part = holder.at("groups")
    if found:
        rules = [group.items("rules") for group in holder.items("groups") if group.at("name").value == found["group"]]
        number = int(found["rule"]) - 1
        part = next((group[number] for group in rules if number < len(group)), part)
        message = message[found.end() :]
    part.refuse(message.rstrip("."), "see Prometheus' recording and alerting rules")
