import numpy as np

from derm_ray.domain import PAPER15, LesionPair, PredictionKind
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.evaluate import compute_metrics, finite_metrics
from derm_ray.evaluation.kinds import main_kind, rows_of
from derm_ray.training.batches import LabeledPairs
from derm_ray.training.modalities import modality_warnings, unlearned, unmeasured

PAIR, CLINICAL, DERMOSCOPY = (1, 1), (1, 0), (0, 1)


def flags(*rows: tuple[int, int]) -> np.ndarray:
    return np.array(rows, bool)


def test_what_train_does_not_teach_is_one_warning() -> None:
    assert unlearned(flags(PAIR, CLINICAL), "triple") is None
    for network in ("sole", "triple"):
        assert str(unlearned(flags(DERMOSCOPY, DERMOSCOPY), network)) == (
            "train: no lesion has a clinical photo. Predictions from a clinical photo, or from both images, are not "
            "learned."
        )
    assert unlearned(flags(CLINICAL, DERMOSCOPY), "share") is None
    assert "The cross sub-network is not learned" in str(unlearned(flags(CLINICAL, DERMOSCOPY), "triple"))


def test_what_val_does_not_measure_is_one_warning_and_another_kind_judges() -> None:
    assert unmeasured(flags(PAIR, CLINICAL)) is None
    apart = flags(CLINICAL, DERMOSCOPY, DERMOSCOPY)
    assert str(unmeasured(apart)) == (
        "val: no lesion has both images. Predictions from such images get no calibration and no operating points. "
        "The monitored metric is that of dermoscopy, which 2 of 3 pairs have."
    )
    assert main_kind(rows_of(apart)) is PredictionKind.DERMOSCOPY
    split = LabeledPairs(
        (LesionPair("p", "l", "c"), LesionPair("q", "m", "c", "d")), np.arange(2), np.ones((2, 1), bool)
    )
    assert split.kind is PredictionKind.CROSS
    alone = list(modality_warnings(flags(DERMOSCOPY), flags(DERMOSCOPY), "sole"))
    assert len(alone) == 2
    assert "no lesion has a clinical photo or both images. Predictions from such images get" in alone[1]


def test_each_kind_is_measured_and_calibrated_on_the_lesions_that_have_it() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 15, 90)
    present = np.array([PAIR, CLINICAL, DERMOSCOPY] * 30, bool)
    scores = {kind: generator.dirichlet(np.ones(15), 90).astype(np.float32) for kind in PredictionKind}
    rows = rows_of(present)
    held = {kind: np.where(rows[kind][:, None], values, np.nan) for kind, values in scores.items()}
    metrics, calibration = finite_metrics(PAPER15, labels, held), fit_calibration(PAPER15, labels, held, "macro_f1")
    for kind, of in rows.items():
        expected = compute_metrics(PAPER15, labels[of], scores[kind][of])
        assert metrics[f"{kind}/accuracy"] == expected["accuracy"]
        fitted = fit_calibration(PAPER15, labels[of], {kind: scores[kind][of]}, "macro_f1")
        assert calibration.temperatures[kind] == fitted.temperatures[kind]
        assert calibration.offsets[kind] == fitted.offsets[kind]
        assert [p for p in calibration.operating_points if p.kind is kind] == list(fitted.operating_points)
    held[PredictionKind.CROSS][:] = np.nan
    assert set(fit_calibration(PAPER15, labels, held).temperatures) == {
        PredictionKind.CLINICAL,
        PredictionKind.DERMOSCOPY,
    }
    assert not any(name.startswith("cross/") for name in finite_metrics(PAPER15, labels, held))
