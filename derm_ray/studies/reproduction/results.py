"""The study's results: metrics of every row, verdicts, and metadata."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from derm_ray import RESEARCH_NOTICE
from derm_ray.domain import PredictionKind
from derm_ray.evaluation.calibration import Reliability, reliability
from derm_ray.evaluation.comparison import finite_or_none, lesion_weights
from derm_ray.evaluation.metrics import Draws, metric_names
from derm_ray.studies.reproduction.claims import Verdict, judge, paper_claims
from derm_ray.studies.reproduction.metrics import RESAMPLES, SeedMetrics, seed_metrics, tasks_of
from derm_ray.studies.reproduction.predictions import TrialPredictions
from derm_ray.studies.reproduction.trials import TrialOutcome

Metrics = Mapping[tuple[str, PredictionKind], SeedMetrics]


@dataclass(frozen=True)
class RowResult:
    """One row of the tables: a row of the grid, or a baseline, which has neither settings nor the paper's accuracy.

    Attributes:
        problems: seed -> reason for a missing result.
        seeds: seed -> predictions.
        metrics, swapped: (metric, prediction kind) -> values; with swapped images accuracy only.
    """

    name: str
    title: str
    paper: Mapping[str, float]
    label_set: str
    settings: Mapping[str, Any]
    problems: Mapping[int, str]
    seeds: Mapping[int, TrialPredictions]
    metrics: Metrics
    swapped: Metrics

    def reliability(self, kind: PredictionKind) -> dict[int, Reliability]:
        """Return how well each seed's probabilities hold on the test split."""
        trials = self.seeds.items()
        return {seed: reliability(one.truth, one.given[kind]) for seed, one in trials if kind in one.given}


@dataclass(frozen=True)
class StudyResults:
    """Everything the report shows: rows in the order of the tables, baselines last; verdicts; manifest, preset and
    seeds.
    """

    rows: tuple[RowResult, ...]
    verdicts: tuple[Verdict, ...]
    metadata: Mapping[str, Any]

    def row(self, name: str) -> RowResult | None:
        """Return a row by name."""
        return next((row for row in self.rows if row.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON types; undefined metrics are null."""
        return {
            "notice": RESEARCH_NOTICE,
            "metadata": dict(self.metadata),
            "rows": [_row_json(row) for row in self.rows],
            "claims": [
                {
                    "claim": verdict.claim.text,
                    "source": verdict.claim.source,
                    "metric": verdict.claim.metric,
                    "verdict": verdict.verdict,
                    "difference": verdict.difference.to_json() if verdict.difference is not None else None,
                    "seeds": list(verdict.seeds),
                    "mcnemar_p": {str(seed): p for seed, p in verdict.mcnemar.items()},
                }
                for verdict in self.verdicts
            ],
        }

    def to_csv(self) -> str:
        """Return one line per row, metric, prediction kind, exchange and seed, and one for the mean of the seeds."""
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(["row", "label_set", "seed", "prediction", "images", "metric", "value", "low", "high", "paper"])
        for row in self.rows:
            for images, table in (("given", row.metrics), ("swapped", row.swapped)):
                for (metric, kind), values in table.items():
                    paper = row.paper.get(kind, "") if metric == "accuracy" and images == "given" else ""
                    mean = [values.mean.value, values.mean.low, values.mean.high]
                    writer.writerow([row.name, row.label_set, "mean", kind, images, metric, *map(_cell, mean), paper])
                    for seed, value in values.seeds.items():
                        writer.writerow([row.name, row.label_set, seed, kind, images, metric, _cell(value), "", "", ""])
        return sink.getvalue()


def _cell(value: float) -> str:
    return f"{value:.6f}" if math.isfinite(value) else ""


def _row_json(row: RowResult) -> dict[str, Any]:
    def table(metrics: Metrics) -> dict[str, Any]:
        return {
            f"{kind}/{metric}": {
                "mean": values.mean.to_json(),
                "seeds": {str(seed): finite_or_none(value) for seed, value in values.seeds.items()},
            }
            for (metric, kind), values in metrics.items()
        }

    return {
        "row": row.name,
        "title": row.title,
        "label_set": row.label_set,
        "settings": dict(row.settings),
        "paper_accuracy": dict(row.paper),
        "problems": {str(seed): text for seed, text in row.problems.items()},
        "trials": {str(seed): dict(trial.metadata) for seed, trial in row.seeds.items()},
        "metrics": table(row.metrics),
        "metrics_images_swapped": table(row.swapped),
        "calibration": {
            str(seed): {"ece": r.ece, "brier": r.brier, "nll": r.nll}
            for seed, r in row.reliability(PredictionKind.CROSS).items()
        },
    }


def assemble(
    outcomes: Sequence[TrialOutcome],
    baselines: Mapping[str, tuple[str, TrialPredictions | str]],
    metadata: Mapping[str, Any],
    *,
    plain: str,
) -> StudyResults:
    """Compute every metric and verdict; ``plain`` is the head without bilinear pooling.

    ``baselines`` are name -> title and predictions, or why there are none.
    """
    rows: list[RowResult] = []
    for row in dict.fromkeys(outcome.trial.row for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.trial.row is row]
        seeds = {o.trial.seed: o.predictions for o in mine if o.predictions is not None}
        problems = {o.trial.seed: o.problem for o in mine if o.problem is not None}
        settings = {name: value for name, value in row.config.to_json().items() if name != "seed"}
        described = (row.name, row.title, row.paper or {}, row.config.label_set, settings, problems)
        rows.append(RowResult(*described, seeds, _metrics(seeds), _metrics(seeds, swapped=True)))
    for name, (title, found) in baselines.items():
        if isinstance(found, str):
            rows.append(RowResult(name, title, {}, "", {}, {0: found}, {}, {}, {}))
        else:
            rows.append(RowResult(name, title, {}, found.labels.name, {}, {}, {0: found}, _metrics({0: found}), {}))
    known = {row.name: row.seeds for row in rows if row.label_set == metadata["label_set"]}
    # A baseline has no seed: it is compared with every one.
    known |= {name: dict.fromkeys(metadata["seeds"], known[name][0]) for name in baselines if name in known}
    ids = next((trial.lesion_ids for seeds in known.values() for trial in seeds.values()), None)
    verdicts = [judge(claim, known, _weights(ids)) for claim in paper_claims(plain)] if ids is not None else []
    return StudyResults(tuple(rows), tuple(verdicts), metadata)


@lru_cache(maxsize=4)
def _weights(lesion_ids: tuple[str, ...]) -> Draws:
    """Return the resamples, which all rows of a label set share."""
    return lesion_weights(lesion_ids, resamples=RESAMPLES)


def _metrics(seeds: Mapping[int, TrialPredictions], *, swapped: bool = False) -> Metrics:
    """Return all metrics of a row, or its accuracy with swapped images, where they are defined."""
    if not seeds:
        return {}
    first = next(iter(seeds.values()))
    found = {
        (metric, kind): seed_metrics(metric, seeds, kind, _weights(first.lesion_ids), swapped=swapped)
        for metric in (["accuracy"] if swapped else metric_names(tasks_of(first.labels)))
        for kind in PredictionKind
    }
    return {key: values for key, values in found.items() if values is not None and math.isfinite(values.mean.value)}
