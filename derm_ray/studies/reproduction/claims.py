"""The paper's claims as paired comparisons, and a verdict for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from derm_ray.domain import PredictionKind
from derm_ray.evaluation.comparison import Interval, percentile_interval
from derm_ray.evaluation.metrics import Draws
from derm_ray.studies.reproduction.metrics import seed_metrics
from derm_ray.studies.reproduction.predictions import TrialPredictions

REPRODUCED, NOT_REPRODUCED, UNDECIDED = "reproduced", "not reproduced", "undecided"
NOT_RUN, NOT_DEFINED = "not run", "not defined"

CLINICAL, DERMOSCOPY, CROSS = PredictionKind.CLINICAL, PredictionKind.DERMOSCOPY, PredictionKind.CROSS


@dataclass(frozen=True)
class Side:
    """One of the metrics that a claim compares."""

    row: str
    kind: PredictionKind = CROSS
    swapped: bool = False


@dataclass(frozen=True)
class Claim:
    """A sum of signed metrics that the claim says is above 0; ``source`` is where the paper says so, or ``ours``."""

    text: str
    source: str
    terms: tuple[tuple[int, Side], ...]
    metric: str = "accuracy"


@dataclass(frozen=True)
class Verdict:
    """Verdict on a claim, from the test split.

    Attributes:
        difference: mean over the seeds, with its 95% interval from a paired bootstrap over lesions.
        verdict: ``reproduced`` if the interval is above 0, ``not reproduced`` if it is below, ``undecided`` in between;
            ``not run`` where the rows have no seed in common, ``not defined`` where the test split has no such metric.
        mcnemar: seed -> two-sided exact p of McNemar's test; only for two sides and accuracy.
        seeds: those that all rows have, and that the difference is of.
    """

    claim: Claim
    difference: Interval | None
    verdict: str
    mcnemar: Mapping[int, float]
    seeds: tuple[int, ...] = ()


NAMES = {"sole": "Sole-Net", "share": "Share-Net", "triple": "Triple-Net"}
TASKS = {"accuracy": "all diagnoses", "cancer/auroc": "cancer AUROC", "melanoma/auroc": "melanoma AUROC"}
AGAINST_BASELINE = {
    "balanced_accuracy": "balanced accuracy",
    "cancer/auroc": "cancer AUROC",
    "melanoma/auroc": "melanoma AUROC",
}


def paper_claims(plain: str) -> tuple[Claim, ...]:
    """Return the claims of sections 2.2 to 3.3, and those a user asks first; ``plain`` is the head without pooling."""

    def row(network: str, kind: PredictionKind = CROSS, *, head: str = plain, swapped: bool = False) -> Side:
        return Side(f"{network}-{head}", kind, swapped)

    def claim(text: str, source: str, better: Side, worse: Side, metric: str = "accuracy") -> Claim:
        return Claim(text, source, ((1, better), (-1, worse)), metric)

    kinds = tuple(PredictionKind)
    claims = [
        claim(f"{title}: cross beats {kind} alone", "3.1 (2)", row(name), row(name, kind))
        for name, title in NAMES.items()
        for kind in (CLINICAL, DERMOSCOPY)
    ]
    claims += [
        claim(f"{NAMES[better]} beats {NAMES[worse]}, {kind}", source, row(better, kind), row(worse, kind))
        for better, worse, source in (
            ("share", "sole", "3.1 (1)"),
            ("triple", "sole", "3.1 (3)"),
            ("triple", "share", "3.1 (3)"),
        )
        for kind in kinds
    ]
    swap = ((1, row("sole")), (-1, row("sole", swapped=True)), (-1, row("triple")), (1, row("triple", swapped=True)))
    claims.append(Claim("Swapping the images costs Triple-Net less than Sole-Net", "3.1", swap))
    for name in ("share", "triple"):
        pooled = [row(name, kind, head="cam_bp") for kind in kinds]
        claims += [claim(f"CAM-BP helps {NAMES[name]}, {p.kind}", "3.2", p, row(name, p.kind)) for p in pooled]
        text = f"CAM-BP beats BP, {NAMES[name]} cross"
        claims.append(claim(text, "2.2", row(name, head="cam_bp"), row(name, head="bp")))
    best = row("triple", head="cam_bp")
    claims += [
        claim(
            f"Triple-Net + CAM-BP: cross beats {kind} alone, {title}",
            "abstract",
            best,
            replace(best, kind=kind),
            metric,
        )
        for metric, title in TASKS.items()
        for kind in (CLINICAL, DERMOSCOPY)
    ]
    claims += [
        claim(f"Triple-Net + CAM-BP beats {title}, cross", "3.3", best, Side(name))
        for name, title in (("resnet50", "ResNet-50"), ("resnet50-bp", "ResNet-50 + BP"))
    ]
    for metric, title in AGAINST_BASELINE.items():
        text = f"Triple-Net + CAM-BP beats logistic regression, {title}"
        claims.append(claim(text, "ours", best, Side("logistic-regression"), metric))
    return tuple(claims)


def judge(claim: Claim, rows: Mapping[str, Mapping[int, TrialPredictions]], weights: Draws) -> Verdict:
    """Test one claim on resamples of the lesions; see :func:`derm_ray.evaluation.comparison.lesion_weights`.

    ``rows`` are row name -> seed -> predictions, all of the same pairs; baselines have an entry for every seed.
    """
    seeds = sorted(set.intersection(*(set(rows.get(side.row, ())) for _, side in claim.terms)))
    total: Draws = np.zeros(len(weights))
    for sign, side in claim.terms:
        trials = {seed: rows[side.row][seed] for seed in seeds}
        found = seed_metrics(claim.metric, trials, side.kind, weights, swapped=side.swapped)
        if found is None:
            return Verdict(claim, None, NOT_RUN, {})
        total = total + sign * found.draws
    if not np.isfinite(total[0]):
        return Verdict(claim, None, NOT_DEFINED, {})
    difference = percentile_interval(total[0], total[1:])
    verdict = REPRODUCED if difference.low > 0 else NOT_REPRODUCED if difference.high < 0 else UNDECIDED
    return Verdict(claim, difference, verdict, _mcnemar(claim, rows, seeds), tuple(seeds))


def _mcnemar(
    claim: Claim, rows: Mapping[str, Mapping[int, TrialPredictions]], seeds: Sequence[int]
) -> dict[int, float]:
    if len(claim.terms) != 2 or claim.metric != "accuracy":
        return {}
    first, second = (side for _, side in claim.terms)
    values: dict[int, float] = {}
    for seed in seeds:
        one, other = (_right(rows[side.row][seed], side) for side in (first, second))
        gained, lost = int((one & ~other).sum()), int((~one & other).sum())
        values[seed] = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return values


def _right(trial: TrialPredictions, side: Side) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
    return np.asarray(trial.named(side.kind, swapped=side.swapped) == trial.truth)
