import numpy as np
import pytest
from sklearn import metrics as reference

from derm_ray.domain import PAPER15
from derm_ray.evaluation.comparison import bootstrap, lesion_resamples
from derm_ray.evaluation.metrics import auroc, class_metrics, confusion_matrix
from derm_ray.evaluation.tasks import sensitivity_at_specificity, task_metrics


def random_case(seed: int, classes: int = 6, pairs: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, pairs)
    logits = generator.normal(size=(pairs, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
def test_figures_equal_scikit_learns(seed: int) -> None:
    labels, probabilities = random_case(seed)
    predicted = probabilities.argmax(1)
    found = class_metrics(labels, probabilities)
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found.balanced_accuracy == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    assert found.macro_f1 == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    areas = reference.roc_auc_score(np.eye(6)[labels], probabilities, average=None)
    assert np.allclose(found.auroc, areas)
    assert found.macro_auroc == pytest.approx(areas.mean())
    assert np.array_equal(confusion_matrix(labels, predicted, 6), reference.confusion_matrix(labels, predicted))


def test_ties_count_half() -> None:
    assert auroc(np.array([True, False]), np.array([0.5, 0.5])) == 0.5


def test_absent_classes_are_undefined_and_leave_the_mean() -> None:
    labels, probabilities = random_case(0, classes=4)
    kept = labels != 3
    found = class_metrics(labels[kept], probabilities[kept])
    assert np.isnan(found.auroc[3])
    assert found.classes_covered == 3
    assert found.macro_auroc == pytest.approx(np.mean(found.auroc[:3]))


def test_sensitivity_keeps_the_specificity() -> None:
    negative = np.arange(100) / 100
    assert sensitivity_at_specificity(np.array([0.945, 0.95, 0.1]), negative) == pytest.approx(2 / 3)
    threshold_at_95 = np.sort(negative)[94]
    assert (negative > threshold_at_95).mean() <= 0.05
    assert np.isnan(sensitivity_at_specificity(np.array([]), negative))


def test_melanoma_task_leaves_other_cancers_out() -> None:
    names = PAPER15.class_names
    labels = np.array([names.index(n) for n in ("melanoma", "basal_cell_carcinoma", "dermatofibroma")])
    probabilities = np.zeros((3, 15))
    probabilities[:, names.index("melanoma")] = 0.9, 0.99, 0.2
    cancer, melanoma = (task_metrics(task, names, labels, probabilities) for task in PAPER15.tasks())
    assert (melanoma.positives, melanoma.negatives, melanoma.auroc) == (1, 1, 1.0)
    assert (cancer.positives, cancer.negatives) == (2, 1)


def test_resamples_keep_a_lesions_pairs_together() -> None:
    lesions = ["a", "a", "b", "c"]
    for rows in lesion_resamples(lesions, resamples=20, seed=0):
        counts = np.bincount(rows, minlength=4)
        assert counts[0] == counts[1]
        assert counts[0] + counts[2] + counts[3] == 3


def test_intervals_cover_a_known_mean() -> None:
    covered = 0
    for seed in range(40):
        values = np.random.default_rng(seed).random(80)
        metric = bootstrap(
            lambda rows, v=values: {"mean": float(v[rows].mean())}, [str(i) for i in range(80)], resamples=200
        )
        covered += metric["mean"].low <= 0.5 <= metric["mean"].high
    assert covered >= 34


def test_an_undefined_figure_has_no_interval() -> None:
    metric = bootstrap(lambda rows: {"x": float("nan")}, ["a", "b"], resamples=5)["x"]
    assert np.isnan([metric.value, metric.low, metric.high]).all()
