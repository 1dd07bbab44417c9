from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.preprocessing import PairPixels
from derm_ray.domain import Calibration, Modality, OperatingPoint, PredictionKind
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.inference.engines.engine import Images, Probabilities
from derm_ray.inference.predictor import Predictor


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48, 3), dtype=np.uint8)


def mixed() -> list[PairPixels]:
    return [
        PairPixels(pixels(0), pixels(1)),
        PairPixels(pixels(2), None),
        PairPixels(pixels(3), pixels(4)),
        PairPixels(None, pixels(5)),
        PairPixels(pixels(6), pixels(7)),
    ]


def test_answers_do_not_depend_on_company_or_batch_size(bundle_uri: str) -> None:
    bundle = load_bundle(bundle_uri)
    together = Predictor(bundle, "torch", batch_size=2).predict(mixed())
    for pair, prediction in zip(mixed(), together, strict=True):
        (alone,) = Predictor(bundle, "torch").predict([pair])
        assert prediction.modality == alone.modality == pair.modality
        assert np.allclose(prediction.probabilities, alone.probabilities, atol=1e-6)


def test_several_images_are_averaged_before_calibration(bundle_uri: str) -> None:
    """Three photos and two dermoscopy images: each alone over its own, both over the three views."""
    plain = load_bundle(bundle_uri)
    bundle = replace(plain, calibration=Calibration({PredictionKind.CROSS: 0.5}))
    c, d = [pixels(i) for i in range(3)], [pixels(i) for i in range(3, 5)]
    several = PairPixels(c[0], d[0], further={Modality.CLINICAL: (c[1], c[2]), Modality.DERMOSCOPY: (d[1],)})
    single = PairPixels(c[0], None)
    first, second, third = Predictor(bundle, "torch").predict([single, several, PairPixels(c[2], d[0])])
    assert (first.images, second.images) == ({Modality.CLINICAL: 1}, {Modality.CLINICAL: 3, Modality.DERMOSCOPY: 2})
    views = Predictor(plain, "torch").predict([PairPixels(c[0], d[0]), PairPixels(c[1], d[1]), PairPixels(c[2], d[0])])
    own = {kind: np.array([view.per_input_predictions[kind] for view in views]) for kind in PredictionKind}
    found = second.per_input_predictions
    assert np.allclose(found[PredictionKind.CLINICAL], own[PredictionKind.CLINICAL].mean(0), atol=1e-6)
    assert np.allclose(found[PredictionKind.DERMOSCOPY], own[PredictionKind.DERMOSCOPY][:2].mean(0), atol=1e-6)
    squares = own[PredictionKind.CROSS].mean(0) ** 2
    assert np.allclose(found[PredictionKind.CROSS], squares / squares.sum(), atol=1e-6)
    (alone,) = Predictor(bundle, "torch").predict([PairPixels(c[2], d[0])])
    assert np.allclose(third.probabilities, alone.probabilities, atol=1e-6)


def test_bf16_stays_close_to_fp32(bundle_uri: str) -> None:
    bundle = load_bundle(bundle_uri)
    exact, rounded = (Predictor(bundle, name).predict(mixed()) for name in ("torch", "torch-bf16"))
    difference = [
        np.abs(np.subtract(a.probabilities, b.probabilities)).max() for a, b in zip(exact, rounded, strict=True)
    ]
    assert 0 < max(difference) < 2e-2


class FixedEngine:
    """Answers with known numbers."""

    name = "fixed"

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        count = len(clinical if clinical is not None else dermoscopy)  # type: ignore[arg-type]
        row = np.zeros(15, np.float32)
        row[12:15] = 0.5, 0.3, 0.1  # melanoma, BCC, SCC
        row[0] = 0.1
        kinds = [PredictionKind.CLINICAL] if clinical is not None else []
        kinds += [PredictionKind.DERMOSCOPY] if dermoscopy is not None else []
        kinds += [PredictionKind.CROSS] if len(kinds) == 2 else []
        return {kind: np.tile(row, (count, 1)) for kind in kinds}


def test_risks_are_sums_over_the_tasks_classes(bundle_uri: str) -> None:
    both, alone = Predictor(load_bundle(bundle_uri), FixedEngine()).predict(mixed()[:2])
    assert both.diagnosis == "melanoma"
    assert both.confidence == 0.5
    assert both.task_probabilities["cancer"] == pytest.approx(0.9)
    assert both.task_probabilities["melanoma"] == pytest.approx(0.5)
    assert set(both.per_input_predictions) == set(PredictionKind)
    assert set(alone.per_input_predictions) == {PredictionKind.CLINICAL}


def test_no_pairs_no_predictions(bundle_uri: str) -> None:
    assert Predictor(load_bundle(bundle_uri), "torch").predict([]) == []


def test_temperatures_and_operating_points_are_applied(bundle_uri: str) -> None:
    points = (
        OperatingPoint(PredictionKind.CROSS, "cancer", 0.9, 0.95, 0.9, 0.5),
        OperatingPoint(PredictionKind.CROSS, "melanoma", 0.95, 0.4, 0.95, 0.4),
        OperatingPoint(PredictionKind.CLINICAL, "melanoma", 0.9, 0.6, 0.9, 0.6),
    )
    plain = load_bundle(bundle_uri)
    bundle = replace(plain, calibration=Calibration({PredictionKind.CROSS: 0.5}, points))
    both, alone = Predictor(bundle, FixedEngine()).predict(mixed()[:2])
    squares = np.array([0.5, 0.3, 0.1, 0.1]) ** 2
    assert both.confidence == pytest.approx(0.25 / squares.sum(), abs=1e-6)
    assert both.above_threshold == {"cancer_at_90_sensitivity": True, "melanoma_at_95_sensitivity": True}
    assert alone.confidence == 0.5
    assert alone.above_threshold == {"melanoma_at_90_sensitivity": False}


def test_each_image_names_a_diagnosis_by_its_own_decision_offsets(bundle_uri: str) -> None:
    plain = load_bundle(bundle_uri)
    names = plain.label_set.class_names
    to_scc = tuple(3.0 * (name == "squamous_cell_carcinoma") for name in names)
    to_bcc = tuple(3.0 * (name == "basal_cell_carcinoma") for name in names)
    offsets = {PredictionKind.CROSS: to_scc, PredictionKind.CLINICAL: to_bcc}
    bundle = replace(plain, calibration=Calibration(decide="macro_f1", offsets=offsets))
    both, alone = Predictor(bundle, FixedEngine()).predict(mixed()[:2])
    assert (both.diagnosis, both.confidence) == ("squamous_cell_carcinoma", pytest.approx(0.1))
    assert both.per_input_diagnoses == {
        PredictionKind.CLINICAL: "basal_cell_carcinoma",
        PredictionKind.DERMOSCOPY: "melanoma",
        PredictionKind.CROSS: "squamous_cell_carcinoma",
    }
    assert alone.per_input_diagnoses == {PredictionKind.CLINICAL: alone.diagnosis}
    assert alone.diagnosis == "basal_cell_carcinoma"


class ListedEngine:
    """Answers the next rows of a table."""

    name = "listed"

    def __init__(self, table: Probabilities) -> None:
        self.table = table

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        assert clinical is not None
        assert dermoscopy is not None
        rows, self.table = np.split(self.table, [len(clinical)])
        return dict.fromkeys(PredictionKind, rows)


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_reach_their_target_on_the_pairs_they_were_chosen_on(bundle_uri: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bundle = load_bundle(bundle_uri)
    labels = rng.integers(0, 15, 125)
    table = rng.dirichlet(np.full(15, 0.3), 125).astype(np.float32)
    fitted = fit_calibration(bundle.label_set, labels, dict.fromkeys(PredictionKind, table))
    pairs = [PairPixels(pixels(0), pixels(1))] * len(table)
    answers = Predictor(replace(bundle, calibration=fitted), ListedEngine(table)).predict(pairs)
    for task in bundle.label_set.tasks():
        positive = np.isin(labels, [bundle.label_set.class_names.index(name) for name in task.positive])
        for target in (90, 95):
            above = np.array([answer.above_threshold[f"{task.name}_at_{target}_sensitivity"] for answer in answers])
            assert above[positive].mean() >= target / 100


class SmallEngine(FixedEngine):
    """Holds three images at once."""

    def __init__(self, error: RuntimeError) -> None:
        self.sizes: list[int] = []
        self._error = error

    def run(self, clinical: Images | None, dermoscopy: Images | None) -> Mapping[PredictionKind, Probabilities]:
        self.sizes.append(len(clinical if clinical is not None else dermoscopy))  # type: ignore[arg-type]
        if self.sizes[-1] > 3:
            raise self._error
        return super().run(clinical, dermoscopy)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_the_batch_is_halved_where_memory_does_not_suffice(bundle_uri: str, error: RuntimeError) -> None:
    engine = SmallEngine(error)
    predictor = Predictor(load_bundle(bundle_uri), engine, batch_size=8)
    pairs = [PairPixels(pixels(i), pixels(100 + i)) for i in range(11)]
    assert len(predictor.predict(pairs)) == 11
    assert engine.sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    assert predictor.batch_size == 2
    predictor.predict(pairs[:3])
    assert engine.sizes[8:] == [2, 1], "it does not try again"


def test_other_failures_of_the_engine_are_not_hidden(bundle_uri: str) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        Predictor(load_bundle(bundle_uri), SmallEngine(RuntimeError("a bug")), batch_size=8).predict(mixed() * 4)
