"""The study as one self-contained HTML page."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from derm_ray.domain import PredictionKind, label_set
from derm_ray.evaluation.metrics import metric_names, metric_title
from derm_ray.evaluation.plots import interval_plot, reliability_plot, render_page
from derm_ray.evaluation.report import difference_text, figure_text
from derm_ray.studies.reproduction.claims import NOT_REPRODUCED, REPRODUCED, UNDECIDED
from derm_ray.studies.reproduction.gallery import ROW, Gallery
from derm_ray.studies.reproduction.metrics import SeedMetrics, tasks_of
from derm_ray.studies.reproduction.results import RowResult, StudyResults

TASKS = {
    "cancer": ("cancer/auroc", "cancer"),
    "cancer, in situ counted": ("cancer_isic/auroc", "cancer_isic"),
    "melanoma vs benign": ("melanoma/auroc", "melanoma"),
}


def render_html(results: StudyResults, gallery: Gallery | None) -> str:
    """Return the page: tables, charts, verdicts and provenance; it loads nothing from elsewhere."""
    verdicts = Counter(verdict.verdict for verdict in results.verdicts)
    tasks = tasks_of(label_set(results.metadata["label_set"]))
    return render_page(
        "derm_ray.studies.reproduction",
        {
            "metric": lambda values: figure_text(values.mean) if values is not None else "",
            "signed": lambda interval: difference_text(interval) if interval is not None else "n/a",
            "percent": lambda value: f"{100 * value:.1f}%",
        },
        results=results,
        gallery=gallery,
        kinds=list(PredictionKind),
        metrics={name: metric_title(name) for name in metric_names(tasks)},
        counts={name: verdicts[name] for name in (REPRODUCED, NOT_REPRODUCED, UNDECIDED)},
        plots=_plots(results),
        tasks=_tasks(results),
    )


def main_table(results: StudyResults) -> list[tuple[str, list[str]]]:
    """Return title and trials of every row of the study's label set that has results.

    Cells are of cross: accuracy, balanced accuracy, both AUROCs.
    """
    shown = ("accuracy", "balanced_accuracy", "cancer/auroc", "melanoma/auroc")
    table = []
    for row in (row for row in results.rows if row.label_set == results.metadata["label_set"]):
        values = [row.metrics.get((name, PredictionKind.CROSS)) for name in shown]
        if any(value is not None for value in values):
            table.append((row.title, [f"{v.mean.value:.3f}" if v is not None else "n/a" for v in values]))
    return table


def _tasks(results: StudyResults) -> list[tuple[str, SeedMetrics | None, SeedMetrics | None]]:
    """Return each task's cross AUROC collapsed from the diagnoses, and of the head trained for it alone."""
    collapsed = results.row(ROW)
    rows = []
    for title, (metric, suffix) in TASKS.items():
        own = results.row(f"{ROW}-{suffix}")
        first, second = (
            row.metrics.get((metric, PredictionKind.CROSS)) if row is not None else None for row in (collapsed, own)
        )
        rows.append((title, first, second))
    return rows


def _plots(results: StudyResults) -> dict[str, Any]:
    plots: dict[str, Any] = {}
    best = results.row(ROW)
    if best is not None and best.seeds:
        names = {"all diagnoses": "accuracy", "cancer": "cancer/accuracy", "melanoma": "melanoma/accuracy"}
        plots["tasks"] = _chart([best] * len(names), list(names.values()), list(names))
        diagrams = best.reliability(PredictionKind.CROSS)
        plots["reliability"] = reliability_plot(next(iter(diagrams.values())))
    label_set, kinds = results.metadata["label_set"], len(PredictionKind)
    compared = [
        row for row in results.rows if row.label_set == label_set and len({kind for _, kind in row.metrics}) == kinds
    ]
    if compared:
        plots["methods"] = _chart(compared, ["accuracy"] * len(compared), [row.title for row in compared])
    return plots


def _chart(rows: Sequence[RowResult], metrics: Sequence[str], names: Sequence[str]) -> Markup:
    kept = [
        (name, [row.metrics.get((metric, kind)) for kind in PredictionKind])
        for row, metric, name in zip(rows, metrics, names, strict=True)
    ]
    whole = [(name, [v for v in values if v is not None]) for name, values in kept if None not in values]
    series = {kind: [values[i].mean for _, values in whole] for i, kind in enumerate(PredictionKind)}
    return interval_plot([name for name, _ in whole], series, "accuracy, mean of the seeds, 95% interval")
