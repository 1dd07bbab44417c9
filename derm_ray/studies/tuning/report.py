"""What a search has found: a table, a plot, and the best recipe as a file."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from derm_ray.studies.tuning.space import Range, Space

_COLUMNS = 3


@dataclass(frozen=True)
class TrialRow:
    """A trial.

    Attributes:
        name: of its run.
        state: ``finished``, ``stopped`` by the scheduler, or ``failed``.
        settings: what it drew.
        scores: the monitored metric of each epoch, NaN where it is not defined.
        run_uri: the folder of its run.
        problem: why it failed.
    """

    name: str
    state: str
    settings: Mapping[str, Any]
    scores: tuple[tuple[int, float], ...]
    run_uri: str
    problem: str | None = None

    @property
    def best(self) -> tuple[int | None, float]:
        """The best epoch and its score; ``None`` and NaN where no epoch has one."""
        defined = [(score, -epoch) for epoch, score in self.scores if not math.isnan(score)]
        score, epoch = max(defined, default=(math.nan, 0))
        return (-epoch or None), score

    def to_json(self) -> dict[str, Any]:
        """Return the row of the table."""
        epoch, score = self.best
        return {
            "trial": self.name,
            "state": self.state,
            "score": None if math.isnan(score) else score,
            "best_epoch": epoch,
            "epochs": len(self.scores),
            **self.settings,
            "run": self.run_uri,
            "problem": self.problem,
        }


def ranked(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """Return the best first: those that trained to their end, by score, then those that were stopped, then failed."""
    states = ("finished", "stopped", "failed")

    def rank(row: TrialRow) -> tuple[int, float]:
        score = row.best[1]
        return states.index(row.state), math.inf if math.isnan(score) else -score

    return sorted(rows, key=rank)


def table_csv(rows: Sequence[TrialRow]) -> str:
    """Return the trials as CSV."""
    lines = [row.to_json() for row in rows]
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def table_text(rows: Sequence[TrialRow], metric: str) -> str:
    """Return the trials as aligned text, problems below; ``metric`` heads the scores."""
    head = ["trial", "state", metric, "epoch", *rows[0].settings]
    lines = [head]
    for row in rows:
        epoch, score = row.best
        shown = ["" if epoch is None else f"{score:.4f}", "" if epoch is None else f"{epoch}/{len(row.scores)}"]
        lines.append([row.name, row.state, *shown, *(short(value) for value in row.settings.values())])
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(f"{row.name}: {row.problem}" for row in rows if row.problem)])


def short(value: object) -> str:
    """Return a value for people."""
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def plot_png(rows: Sequence[TrialRow], space: Space, score: str) -> bytes:
    """Return a plot, as PNG: the score, so named, by epoch of each trial, and the best score by each setting."""
    panels = 1 + len(space)
    lines = math.ceil(panels / _COLUMNS)
    figure = Figure(figsize=(4.2 * min(panels, _COLUMNS), 3.2 * lines), layout="constrained")
    axes = [figure.add_subplot(lines, min(panels, _COLUMNS), 1 + panel) for panel in range(panels)]
    for number, row in enumerate(rows):
        epochs, scores = zip(*row.scores, strict=True) if row.scores else ((), ())
        color, width = ("#c2742f", 2.0) if number == 0 else ("#3b7ea1", 0.8)
        axes[0].plot(epochs, scores, color=color, lw=width, marker=".", zorder=2 + (number == 0))
    axes[0].set_xlabel("epoch (best trial in orange)")
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel, (name, of) in zip(axes[1:], space.items(), strict=True):
        _scatter(panel, rows, name, of)
    for panel in axes:
        panel.set_ylabel(score)
        panel.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _scatter(panel: Axes, rows: Sequence[TrialRow], name: str, of: Range | tuple[Any, ...]) -> None:
    if isinstance(of, Range):
        at = [row.settings[name] for row in rows]
        if of.log:
            panel.set_xscale("log")
            panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlim(of.low, of.high)
    else:
        at = [of.index(row.settings[name]) for row in rows]
        panel.set_xticks(range(len(of)), [short(value) for value in of])
    colors = ["#c2742f" if number == 0 else "#3b7ea1" for number in range(len(rows))]
    panel.scatter(at, [row.best[1] for row in rows], c=colors, s=22)
    panel.set_xlabel(name)
