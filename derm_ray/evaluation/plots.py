"""Pages without scripts, and their plots as inline SVG."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from derm_ray import RESEARCH_NOTICE
from derm_ray.data.preprocessing import Pixels
from derm_ray.domain import PredictionKind
from derm_ray.errors import counted
from derm_ray.evaluation.calibration import Reliability
from derm_ray.evaluation.comparison import Interval

COLORS: Mapping[PredictionKind, str] = {
    PredictionKind.CLINICAL: "#c2742f",
    PredictionKind.DERMOSCOPY: "#3b7ea1",
    PredictionKind.CROSS: "#222222",
}
_OFFSET = 0.24


def render_page(package: str, filters: Mapping[str, Callable[[Any], str]], **values: Any) -> str:
    """Return the page that a package's template ``report.html.j2`` makes of some values.

    Templates have the filter ``counted`` (:func:`derm_ray.errors.counted`) beside those given.
    """
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update({"counted": counted, **filters})
    return environment.get_template("report.html.j2").render(notice=RESEARCH_NOTICE, **values)


def svg(figure: Figure) -> Markup:
    """Return a figure as an SVG element; the same figure gives the same text."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "derm_ray"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def jpeg_uri(image: Pixels) -> str:
    """Return an image as a data URI."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()


def interval_plot(
    names: Sequence[str], rows: Mapping[PredictionKind, Sequence[Interval]], label: str, chance: float | None = None
) -> Markup:
    """Return a dot plot with intervals: one line per name, one dot per prediction kind; axis 0..1."""
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(names)))
    axes = figure.add_subplot()
    for position, (kind, intervals) in enumerate(rows.items()):
        height = np.arange(len(names)) + (position - 1) * _OFFSET
        value = np.array([interval.value for interval in intervals])
        spans = np.array([[i.value - i.low, i.high - i.value] for i in intervals]).T
        axes.errorbar(value, height, xerr=np.nan_to_num(np.maximum(spans, 0)), fmt="o", ms=4, lw=1.2, label=str(kind),
                      color=COLORS[kind])  # fmt: skip
    if chance is not None:
        axes.axvline(chance, color="#999999", lw=0.8, ls=":")
    axes.set_yticks(range(len(names)), list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlim(0, 1.02)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return svg(figure)


def reliability_plot(measured: Reliability) -> Markup:
    """Return the reliability diagram: accuracy over confidence, dots as large as their bins."""
    figure = Figure(figsize=(4.2, 4.2))
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#999999", lw=0.8, ls=":")
    sizes = 20 + 400 * np.array(measured.counts) / sum(measured.counts)
    axes.plot(measured.confidence, measured.accuracy, color="#222222", lw=0.8)
    axes.scatter(measured.confidence, measured.accuracy, s=sizes, color="#3b7ea1")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share that is right")
    axes.spines[["top", "right"]].set_visible(False)
    return svg(figure)
