"""The reference of drift: its bins, and how seldom and how surely an alert comes of them."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import yaml

from derm_ray.data.reference import Distribution, Quantity
from derm_ray.data.statistics import ImageStatistics
from derm_ray.domain import Modality, PredictionKind
from derm_ray.evaluation.drift import ALERT_PSI, MIN_REQUESTS, fit_reference, max_bins, min_samples

RULES = Path(__file__).parents[3] / "cluster/prometheus/drift.yaml"
Values = npt.NDArray[np.float64]


def of_brightness(values: Values) -> Distribution:
    statistics = [ImageStatistics(float(value), 0.0, 1) for value in values]
    return next(of for of in fit_reference((), {}, {Modality.CLINICAL: statistics}) if of.quantity == "brightness")


def of_diagnoses(names: tuple[str, ...], drawn: npt.NDArray[np.int64]) -> Distribution:
    scores = np.eye(len(names), dtype=np.float32)[drawn]
    return fit_reference(names, {PredictionKind.CROSS: scores}, {})[0]


def psi(counts: Values, shares: Values) -> Values:
    """As the rule computes it: of (..., bins) counts."""
    requests = counts.sum(-1, keepdims=True)
    expected = requests * shares
    return ((counts - expected) * np.log((counts + 0.5) / (expected + 0.5))).sum(-1) / requests[..., 0]


def test_the_rule_and_the_bins_are_made_for_each_other() -> None:
    (alert,) = (rule for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"] if "alert" in rule)
    assert f">= {MIN_REQUESTS}) > {ALERT_PSI}" in alert["expr"]


def test_the_rule_computes_the_index_and_sees_slow_traffic_in_a_day(tmp_path: Path) -> None:
    """Two requests a minute are 120 an hour, too few for a verdict, and 2,880 a day."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is missing; Debian's package prometheus has it")
    rates = {"observed": {"1": 1.5, "2": 0.5, "3": 0.0}, "expected": {"1": 1.0, "2": 0.5, "3": 0.5}}
    series = [
        {
            "series": f'ray_derm_ray_drift_{kind}_total{{application="a",quantity="q",modality="m",bin="{name}"}}',
            "values": f"0+{rate}x1600",
        }
        for kind, bins in rates.items()
        for name, rate in bins.items()
    ]
    day = psi(np.array([2160.0, 720, 0]), np.array([0.5, 0.25, 0.25]))
    ours = '{application="a",modality="m",quantity="q",window="%s"}'
    alert = 'count(ALERTS{alertname="DermRayDrift",alertstate="firing",quantity="q",modality="m"})'
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "1m",
                "tests": [
                    {
                        "interval": "1m",
                        "input_series": series,
                        "promql_expr_test": [
                            {
                                "expr": f'abs(derm_ray:drift_psi{{window="1d"}} / {day} - 1) < bool 0.01',
                                "eval_time": "25h",
                                "exp_samples": [{"labels": ours % "1d", "value": 1}],
                            },
                            {"expr": alert, "eval_time": "2h", "exp_samples": []},
                            {"expr": alert, "eval_time": "5h", "exp_samples": [{"labels": "{}", "value": 1}]},
                        ],
                    }
                ],
            }
        )
    )
    command = [promtool, "test", "rules", str(tmp_path / "test.yaml")]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_fewer_samples_bear_fewer_bins() -> None:
    bins = [max_bins(samples) for samples in range(2000)]
    assert bins == sorted(bins)
    assert (bins[0], bins[-1]) == (0, 10)
    least = min_samples()
    assert (max_bins(least - 1), max_bins(least)) == (0, 2)


def test_numbers_are_cut_into_equal_shares() -> None:
    of = of_brightness(np.arange(1000) / 10)
    assert (of.samples, of.bins) == (1000, (*"123456789", "10"))
    assert of.shares == pytest.approx([0.1] * 10, abs=2e-3)
    assert [of.bin_of(value) for value in (-1e9, 0.0, 55.0, 1e9)] == ["1", "1", "6", "10"]


@pytest.mark.parametrize("samples", [1000, 150])
def test_the_one_resolution_of_a_camera_has_a_bin_of_its_own(samples: int) -> None:
    same = [ImageStatistics(100.0, 50.0, 600)] * samples
    of = next(of for of in fit_reference((), {}, {Modality.CLINICAL: same}) if of.quantity == "resolution")
    assert [of.bin_of(value) for value in (480, 599, 600, 601, 4000)] == ["1", "1", "2", "3", "3"]
    assert of.shares == pytest.approx([0, 1, 0], abs=0.01)
    assert min(of.shares) > 0
    assert sum(of.shares) == pytest.approx(1)


def test_rare_diagnoses_share_a_bin() -> None:
    names = ("common", "rare", "half", "never")
    of = of_diagnoses(names, np.array([0] * 500 + [2] * 480 + [1] * 20))
    assert (of.quantity, of.modality, of.bins) == (Quantity.DIAGNOSIS, "both", ("common", "half", "other"))
    assert of.shares == pytest.approx([0.5, 0.48, 0.02], abs=1e-3)
    assert [of.bin_of(name) for name in names] == ["common", "other", "half", "other"]


def test_too_few_samples_and_prepared_images_make_no_reference() -> None:
    few = [ImageStatistics(1.0, 1.0, 224)] * (min_samples() - 1)
    assert fit_reference((), {}, {Modality.CLINICAL: few}) == ()
    enough = [*few, few[0]]
    found = {(of.quantity, of.modality) for of in fit_reference((), {}, {Modality.DERMOSCOPY: enough}, prepared=True)}
    assert found == {(Quantity.BRIGHTNESS, "dermoscopy"), (Quantity.SHARPNESS, "dermoscopy")}


def test_a_metric_stays_below_its_number_of_series() -> None:
    generator = np.random.default_rng(0)
    names = tuple(map(str, range(15)))
    scores = {kind: generator.dirichlet(np.ones(15), 2000).astype(np.float32) for kind in PredictionKind}
    tied = [ImageStatistics(float(v), float(v), int(v)) for v in generator.integers(0, 10, 1000)]
    reference = fit_reference(names, scores, dict.fromkeys(Modality, tied))
    assert len(reference) == 12
    assert sum(len(of.bins) for of in reference) <= 200


# Whatever is continuous has uniform ranks, so that uniform numbers stand for all of it.
UNIFORM = "uniform"
DIAGNOSES = {
    "even": np.full(15, 1 / 15),
    "milk10k": np.array([303, 2522, 44, 544, 52, 50, 9, 450, 741, 473, 47], float) / 5235,
}


def drawn(what: str, samples: int, generator: np.random.Generator) -> tuple[Distribution, Values]:
    """Return the reference of some samples, and the true probabilities of its bins."""
    if what == UNIFORM:
        of = of_brightness(generator.uniform(size=samples))
        return of, np.diff([0, *of.edges, 1])
    shares = DIAGNOSES[what]
    names = tuple(map(str, range(len(shares))))
    of = of_diagnoses(names, generator.choice(len(shares), samples, p=shares))
    own = np.array([shares[int(name)] for name in of.bins[:-1]])
    return of, np.append(own, 1 - own.sum())


# Where all diagnoses are as frequent, those that get a bin of their own are so by chance in the sample.
@pytest.mark.parametrize(("what", "most"), [(UNIFORM, 1e-4), ("milk10k", 1e-4), ("even", 5e-4)])
@pytest.mark.parametrize("samples", [min_samples(), 184, 330])
def test_windows_without_drift_hardly_ever_alarm(what: str, most: float, samples: int) -> None:
    """At the fewest requests that the rule looks at, and the fewest samples of 2, 5 and 9 bins."""
    generator = np.random.default_rng(samples)
    shares = []
    for _ in range(100):
        of, truth = drawn(what, samples, generator)
        windows = generator.multinomial(MIN_REQUESTS, truth, 2000).astype(float)
        shares.append((psi(windows, np.array(of.shares)) > ALERT_PSI).mean())
    assert np.mean(shares) <= most


DRIFTS: dict[str, Callable[[Values], Values]] = {
    "one standard deviation lower": lambda normal: normal - 1,
    "half as spread": lambda normal: normal / 2,
    "every third at one end": lambda normal: np.where(np.arange(len(normal)) % 3 == 0, -3, normal),
}


@pytest.mark.parametrize(
    ("samples", "name"), [(min_samples(), "one standard deviation lower"), *((1000, name) for name in DRIFTS)]
)
def test_500_requests_of_drift_alarm(samples: int, name: str) -> None:
    generator = np.random.default_rng(samples)
    found = []
    for _ in range(200):
        of = of_brightness(generator.normal(size=samples))
        places = np.searchsorted(of.edges, DRIFTS[name](generator.normal(size=500)), side="right")
        found.append(psi(np.bincount(places, minlength=len(of.bins)).astype(float), np.array(of.shares)))
    assert np.quantile(found, 0.01) > ALERT_PSI
