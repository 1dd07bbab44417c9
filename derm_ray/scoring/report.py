"""The end of a run: its report as JSON and HTML, and ``_SUCCESS.json``."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from derm_ray import storage
from derm_ray.evaluation.plots import render_page
from derm_ray.lease import Lease, records
from derm_ray.scoring.ledger import INVOCATIONS, SUCCESS, Run
from derm_ray.scoring.parts import StageTimes
from derm_ray.scoring.reconcile import BINS, Reconciliation

JSON_NAME = "_report.json"
HTML_NAME = "_report.html"
STAGES = StageTimes._fields
TIME_BINS = 60


def complete_run(run: Run, counts: Reconciliation, lease: Lease) -> None:
    """Write the report, and then ``_SUCCESS.json``: the last file of a run. This invocation's record is not on disk
    yet.
    """
    report = describe(run, counts, [*records(storage.join(run.out_uri, INVOCATIONS))[:-1], lease.record])
    storage.write_json(storage.join(run.out_uri, JSON_NAME), report)
    storage.write_bytes(storage.join(run.out_uri, HTML_NAME), render_html(report).encode())
    sums = {name: sum(one[name] for one in report["invocations"]) for name in ("pairs", "seconds")}
    success = {
        **run.to_json(),
        **counts.counts(),
        "pairs_per_second": round(sums["pairs"] / sums["seconds"], 3) if sums["seconds"] else None,
        "parts": counts.parts,
    }
    storage.write_json(storage.join(run.out_uri, SUCCESS), success)


def describe(run: Run, counts: Reconciliation, invocations: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of a complete run as JSON types; ``invocations`` are the records of all leases."""
    return {
        "run": run.identity(),
        "input": run.source,
        **counts.counts(),
        "confidence": {"bins": BINS, "pairs": counts.confidence},
        "throughput": _throughput(counts.times),
        "invocations": [
            {
                "started_at": one["began_at"],
                "host": one["host"],
                "derm_ray_version": one.get("derm_ray_version"),
                "submission_id": one.get("submission_id"),
                "pairs": one.get("pairs", 0),
                "errors": one.get("errors", 0),
                "seconds": round(one.get("seconds", 0.0), 3),
                "stages": {stage: round(one.get("stages", {}).get(stage, 0.0), 3) for stage in STAGES},
            }
            for one in invocations
        ],
    }


def _throughput(times: Sequence[tuple[float, int]]) -> list[dict[str, float]]:
    """Return pairs per second in equal spans between the first and the last part."""
    ends, pairs = np.array([end for end, _ in times]), np.array([count for _, count in times])
    if len(ends) < 2 or ends[0] == ends[-1]:
        return []
    # The first part's pairs were scored before its time, which is where the spans begin.
    counts, edges = np.histogram(ends[1:], min(TIME_BINS, len(ends) - 1), weights=pairs[1:])
    width = edges[1] - edges[0]
    return [
        {"second": round(float(edge - edges[0]), 3), "pairs_per_second": round(float(count / width), 3)}
        for edge, count in zip(edges[:-1], counts, strict=True)
    ]


def render_html(report: Mapping[str, Any]) -> str:
    """Return the page; it loads nothing from elsewhere."""
    return render_page("derm_ray.scoring", {}, report=report, stages=STAGES)
