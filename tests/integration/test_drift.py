"""Drift, from photos to the alert: a real endpoint, Ray's own export, and the shipped rules in Prometheus' promtool."""

import asyncio
import concurrent.futures
import io
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import ray
import yaml
from PIL import Image, ImageFilter
from prometheus_client.parser import text_string_to_metric_families

from derm_ray.data.manifest import Manifest
from derm_ray.data.reference import Distribution, Quantity
from derm_ray.data.statistics import ImageStatistics
from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15, Modality, Prediction
from derm_ray.serving.arguments import ServeArguments
from derm_ray.serving.client import Client
from derm_ray.serving.drift import DriftMetrics
from derm_ray.serving.endpoint import endpoint
from derm_ray.serving.recorder import Recorder
from derm_ray.storage import read_bytes
from derm_ray.training.config import debug
from derm_ray.training.run.driver import train

pytestmark = pytest.mark.ray

RULES = Path(__file__).parents[2] / "cluster/prometheus/drift.yaml"
PREFIX = "ray_derm_ray_drift_"
REQUESTS = 500
SEEN = {"quantity": "brightness", "modality": "clinical", "application": "derm_ray"}
FIRING = 'ALERTS{alertname="DermRayDrift",alertstate="firing"'

Pair = dict[Modality, bytes]
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""(name, labels) -> value."""


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is missing; Debian's package prometheus has it")
    return found


@pytest.fixture(scope="module")
def watched_uri(ray_local: None, pairs: Manifest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with val enough for a reference of its answers."""
    halves = pairs.absolute().with_column("split", ["train", "val"] * (len(pairs) // 2))
    config = replace(debug(), size=48, epochs=6)
    return train(config, halves, str(tmp_path_factory.mktemp("runs")), "watched").bundle_uri


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Pairs like those of training; pair i shows diagnosis i % 15."""
    manifest = synthesize(str(tmp_path_factory.mktemp("traffic")), REQUESTS, PAPER15, seed=1)
    return [{m: read_bytes(str(pair.uri(m))) for m in Modality} for pair in manifest.pairs()]


def changed(traffic: Sequence[Pair], change: Callable[[Image.Image], Image.Image]) -> list[Pair]:
    """Return the same pairs with other photos."""

    def photo(data: bytes) -> bytes:
        sink = io.BytesIO()
        change(Image.open(io.BytesIO(data))).save(sink, "JPEG", quality=90)
        return sink.getvalue()

    return [{m: photo(data) for m, data in pair.items()} for pair in traffic]


DRIFTS: dict[str, Callable[[list[Pair]], list[Pair]]] = {
    "brightness": lambda traffic: changed(traffic, lambda image: image.point(lambda level: level * 0.6)),
    "sharpness": lambda traffic: changed(traffic, lambda image: image.filter(ImageFilter.GaussianBlur(5))),
    "resolution": lambda traffic: changed(traffic, lambda image: image.resize((120, 120))),
    "diagnosis": lambda traffic: [pair for place, pair in enumerate(traffic) if place % 15 == 0] * 15,
    "confidence": lambda traffic: changed(traffic, lambda image: Image.new("RGB", image.size, (200, 160, 140))),
}
"""What each quantity has to notice."""


def scraped() -> Series:
    (node,) = ray.nodes()
    text = httpx.get(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics").text
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(s.name, tuple(s.labels.items())): s.value for s in found if s.name.startswith(PREFIX)}


def total(series: Series, name: str, **labels: str) -> float:
    return sum(
        value
        for (found, tags), value in series.items()
        if found == PREFIX + name and all(dict(tags).get(label, "") == wanted for label, wanted in labels.items())
    )


def wait_for(name: str, count: float, **labels: str) -> Series:
    """Return the counters when Ray exports so many."""
    deadline = time.monotonic() + 60
    while total(found := scraped(), name, **labels) < count - 1e-3:
        assert time.monotonic() < deadline, "Ray does not export what was counted"
        time.sleep(0.5)
    return found


def ask(url: str, traffic: Sequence[Pair], before: Series) -> Series:
    """Send 500 requests; return the counters when Ray exports all of them."""
    batches = [traffic[start : min(start + 16, REQUESTS)] for start in range(0, REQUESTS, 16)]
    with Client(url) as client, concurrent.futures.ThreadPoolExecutor(2) as pool:
        answers = [answer for batch in pool.map(client.score_batch, batches) for answer in batch]
    assert len(answers) == REQUESTS
    assert all(answer.score is not None for answer in answers)
    return wait_for("expected_total", total(before, "expected_total", **SEEN) + REQUESTS, **SEEN)


def risen(before: Series, after: Series) -> Series:
    return {key: value - before.get(key, 0.0) for key, value in after.items()}


def scenario(quantity: str, clean: Series, drifted: Series) -> dict[str, object]:
    """Return promtool's test of 500 requests without and 500 with drift, a minute apart, in one window."""
    series = []
    for (name, labels), rise in clean.items():
        selector = ",".join(f'{label}="{value}"' for label, value in labels if value)
        steps = (0.0, rise, rise + drifted[name, labels])
        series.append({"series": f"{name}{{{selector}}}", "values": " ".join(f"{v:.9f}+0x3" for v in steps)})
    noticed = [{"labels": f'{{modality="{m}"}}', "value": 1} for m in sorted(modalities(quantity))]
    return {
        "name": quantity,
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [
            {"expr": FIRING + "}", "eval_time": "1m45s", "exp_samples": []},
            {
                "expr": f'count by (modality) ({FIRING},quantity="{quantity}"}})',
                "eval_time": "2m45s",
                "exp_samples": noticed,
            },
        ],
    }


def modalities(quantity: str) -> set[str]:
    return {"both"} if quantity in ("diagnosis", "confidence") else {"clinical", "dermoscopy"}


def test_bins_are_counted_beside_what_the_reference_expects(ray_local: None) -> None:
    watch = DriftMetrics(
        (
            Distribution(Quantity.DIAGNOSIS, "both", 200, ("melanoma", "other"), (), (0.25, 0.75)),
            Distribution(Quantity.BRIGHTNESS, "clinical", 200, ("1", "2"), (100.0,), (0.5, 0.5)),
        ),
        Recorder(),
    )
    dark, light = ImageStatistics(50.0, 1.0, 600), ImageStatistics(100.0, 1.0, 600)

    def answer(modality: str, diagnosis: str) -> Prediction:
        return Prediction(modality, diagnosis, 0.5, (), {})

    async def three_pairs_and_a_photo_alone() -> None:
        watch.observe(answer("both", "melanoma"), {Modality.CLINICAL: dark, Modality.DERMOSCOPY: dark})
        watch.observe(answer("both", "bowens_disease"), {Modality.CLINICAL: light, Modality.DERMOSCOPY: dark})
        watch.observe(answer("both", "melanoma"), {Modality.CLINICAL: light, Modality.DERMOSCOPY: dark})
        watch.observe(answer("clinical", "melanoma"), {Modality.CLINICAL: light})
        await asyncio.sleep(1.5)  # flushed by then

    here = {"replica": ""}  # of no endpoint
    for rounds in (1, 2):
        asyncio.run(three_pairs_and_a_photo_alone())
        found = wait_for("expected_total", 4 * rounds, quantity="brightness", **here)
        counted = {
            (kind, name): total(found, f"{kind}_total", bin=name, **here)
            for kind in ("observed", "expected")
            for name in ("melanoma", "other", "1", "2")
        }
        assert counted == {
            ("observed", "melanoma"): pytest.approx(2 * rounds),
            ("observed", "other"): pytest.approx(rounds),
            ("expected", "melanoma"): pytest.approx(0.75 * rounds),
            ("expected", "other"): pytest.approx(2.25 * rounds),
            ("observed", "1"): pytest.approx(rounds),
            ("observed", "2"): pytest.approx(3 * rounds),
            ("expected", "1"): pytest.approx(2 * rounds),
            ("expected", "2"): pytest.approx(2 * rounds),
        }


@pytest.mark.slow
def test_drift_alarms_within_500_requests_and_clean_traffic_does_not(
    watched_uri: str, traffic: list[Pair], promtool: str, free_port: int, tmp_path: Path
) -> None:
    with endpoint(ServeArguments(model=watched_uri, engine="torch", rate=1e6), port=free_port) as served:
        start = scraped()
        last = ask(served.url, traffic, start)
        clean, drifted = risen(start, last), {}
        for quantity, drift in DRIFTS.items():
            now = ask(served.url, drift(traffic), last)
            drifted[quantity], last = risen(last, now), now
    (tmp_path / "test.yaml").write_text(
        yaml.safe_dump(
            {
                "rule_files": [str(RULES)],
                "evaluation_interval": "15s",
                "tests": [scenario(quantity, clean, found) for quantity, found in drifted.items()],
            }
        )
    )
    checked = subprocess.run(
        [promtool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
