"""An evaluation as JSON and as one self-contained HTML page."""

import math

from markupsafe import Markup

from derm_ray import storage
from derm_ray.domain import LabelSet, PredictionKind
from derm_ray.errors import OutputExistsError, counted
from derm_ray.evaluation.comparison import Interval
from derm_ray.evaluation.evaluation import Evaluation, Group
from derm_ray.evaluation.metrics import NOT_DEFINED, metric_names, metric_title, number_text
from derm_ray.evaluation.plots import interval_plot, reliability_plot, render_page

JSON_NAME = "evaluation.json"
HTML_NAME = "report.html"

WHY_NOT_DEFINED = (
    "A metric is not defined without enough pairs: AUROC needs pairs inside and outside the class, sensitivity needs "
    "positives, specificity needs negatives."
)


def write_evaluation(evaluation: Evaluation, out_uri: str) -> tuple[str, str]:
    """Write ``evaluation.json`` and ``report.html`` into a folder and return the URIs of both.

    Raises:
        OutputExistsError: the folder contains the evaluation of another model or manifest.
    """
    json_uri, html_uri = storage.join(out_uri, JSON_NAME), storage.join(out_uri, HTML_NAME)
    if storage.exists(json_uri):
        before = storage.read_json(json_uri)["provenance"]
        for key in ("model_digest", "against", "manifest_digest", "images"):
            if before.get(key) != evaluation.provenance.get(key):
                raise OutputExistsError(f"{out_uri} contains an evaluation with another {key}. Choose another --out.")
    storage.write_json(json_uri, evaluation.to_json())
    storage.write_bytes(html_uri, render_html(evaluation).encode())
    return json_uri, html_uri


def render_html(evaluation: Evaluation) -> str:
    """Return the page: metrics with intervals, plots and provenance; it loads nothing from elsewhere.

    Plots and confusion are those of the pairs, or where there is none of the larger group of single images.
    """
    name, shown = max(evaluation.groups.items(), key=lambda item: (item[1] is evaluation, item[1].lesions))
    overall = {name: metric_title(name) for name in metric_names(shown.task_sizes)}
    return render_page(
        "derm_ray.evaluation",
        {"metric": figure_text, "number": number_text, "difference": difference_text},
        evaluation=evaluation,
        size=size_text(evaluation),
        shown=shown,
        shown_name=name,
        overall=overall,
        plots=_plots(evaluation.label_set, shown, overall),
        why_not_defined=WHY_NOT_DEFINED,
    )


def figure_text(interval: Interval) -> str:
    """Return a metric for a table: ``0.712 (0.660-0.761)``, or ``not defined``."""
    if interval.low != interval.low:
        return number_text(interval.value)
    return f"{interval.value:.3f} ({interval.low:.3f}-{interval.high:.3f})"


def _reached(name: str, value: float, lacking: str) -> str:
    return f"{value:.1%} {name}" if math.isfinite(value) else f"{name} {NOT_DEFINED} (no {lacking} in this split)"


def difference_text(interval: Interval) -> str:
    """Return a difference for a table: ``+0.021 (-0.004 to +0.046)``, or ``not defined``."""
    if interval.low != interval.low:
        return NOT_DEFINED
    return f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def size_text(evaluation: Evaluation) -> str:
    """Return how many lesions were evaluated: ``40 pairs (38 lesions), 12 lesions with clinical alone``."""
    pairs = f"{counted(evaluation.pairs, 'pair')} ({counted(evaluation.lesions, 'lesion')})"
    alone = [
        f"{counted(group.lesions, 'lesion')} with {modality} alone" for modality, group in evaluation.alone.items()
    ]
    return ", ".join([pairs] * bool(evaluation.kinds) + alone)


def summary_text(evaluation: Evaluation) -> str:
    """Return the main metrics as a table for a terminal, one for each group of lesions with the same images."""
    lines: list[str] = []
    for name, group in evaluation.groups.items():
        if group is not evaluation:
            lines += [""] * bool(lines) + [f"{name}, {counted(group.lesions, 'lesion')}"]
        lines += _group_lines(group)
    for name, group in evaluation.groups.items():
        kind = group.kind if group is evaluation else name
        lines += [
            f"{kind}, {point.task}: a threshold of {point.threshold:.4f}, chosen for {point.target:.0%} sensitivity, "
            f"has {_reached('sensitivity', point.sensitivity, 'positives')} and "
            f"{_reached('specificity', point.specificity, 'negatives')}"
            for point in group.kinds[group.kind].operating
        ]
    if any(NOT_DEFINED in line for line in lines):
        lines.append(WHY_NOT_DEFINED)
    lines += [f"warning: {warning}" for warning in evaluation.warnings]
    return "\n".join(lines)


def _group_lines(group: Group) -> list[str]:
    overall = {name: metric_title(name) for name in metric_names(group.task_sizes)}
    width = max(map(len, overall.values()))
    lines = [f"{'':<{width}}" + "".join(f"  {kind!s:<21}" for kind in group.kinds) + "  majority class"]
    for name, title in overall.items():
        cells = "".join(f"  {figure_text(result.metrics[name]):<21}" for result in group.kinds.values())
        lines.append(f"{title:<{width}}{cells}  {number_text(group.majority[name])}")
    if group.without_patient:
        lines += ["", "without patient data"]
        for name, title in overall.items():
            results = group.without_patient.values()
            lines.append(f"{title:<{width}}" + "".join(f"  {figure_text(one.metrics[name]):<21}" for one in results))
        lines.append("")
    if group.differences:
        lines += ["", "difference to the other model, paired over lesions"]
        for name, title in overall.items():
            cells = "".join(f"  {difference_text(metrics[name]):<27}" for metrics in group.differences.values())
            lines.append(f"{title:<{width}}{cells.rstrip()}")
        lines.append("")
    return lines


def _plots(label_set: LabelSet, group: Group, overall: dict[str, str]) -> dict[str, Markup]:
    def rows(names: list[str]) -> dict[PredictionKind, list[Interval]]:
        return {kind: [result.metrics[name] for name in names] for kind, result in group.kinds.items()}

    present = [d for d in label_set.diagnoses if group.support[d.name]]
    areas = [f"auroc/{diagnosis.name}" for diagnosis in present]
    names = [f"{d.title} ({group.support[d.name]})" for d in present]
    return {
        "overall": interval_plot(list(overall.values()), rows(list(overall)), "metric, 95% interval"),
        "classes": interval_plot(names, rows(areas), "one-vs-rest AUROC, 95% interval", chance=0.5),
        "reliability": reliability_plot(group.kinds[group.kind].reliability),
    }
