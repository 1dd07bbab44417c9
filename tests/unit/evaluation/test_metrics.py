from collections.abc import Callable

import numpy as np
import pytest
from sklearn import metrics as reference

from derm_ray.domain import PAPER15, Task
from derm_ray.errors import ConfigError
from derm_ray.evaluation import comparison
from derm_ray.evaluation.comparison import bootstrap, lesion_weights
from derm_ray.evaluation.metrics import (
    METRICS,
    Metric,
    compute,
    compute_all,
    confusion_matrix,
    metric_title,
    task_scores,
)
from derm_ray.evaluation.standard_metrics import auroc, sensitivity
from derm_ray.training.config import make_config


def random_case(seed: int, classes: int = 6, pairs: int = 200) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, pairs)
    logits = generator.normal(size=(pairs, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def named(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    names = [f"c{k}" for k in range(probabilities.shape[1])]
    task = Task("first", "First", ("c0", "c1"), tuple(names[2:]))
    weights = np.ones((1, len(labels))) if weights is None else weights
    return compute_all({"first": task}, names, labels, probabilities, weights)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_equal_scikit_learns(seed: int) -> None:
    labels, probabilities = random_case(seed)
    predicted = probabilities.argmax(1)
    found = named(labels, probabilities)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(labels, predicted))
    assert found["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(reference.f1_score(labels, predicted, average="macro"))
    areas = reference.roc_auc_score(np.eye(6)[labels], probabilities, average=None)
    assert np.allclose([found[f"auroc/c{k}"][0] for k in range(6)], areas)
    assert found["macro_auroc"] == pytest.approx(areas.mean())
    scores = probabilities[:, :2].sum(1)
    assert found["first/auroc"] == pytest.approx(reference.roc_auc_score(labels < 2, scores))
    assert found["first/accuracy"] == pytest.approx(reference.accuracy_score(labels < 2, scores >= 0.5))
    assert np.array_equal(confusion_matrix(labels, predicted, 6), reference.confusion_matrix(labels, predicted))


def test_a_weight_counts_like_a_copy() -> None:
    labels, probabilities = random_case(0)
    probabilities = probabilities.round(1)  # many ties
    rows = np.random.default_rng(0).integers(0, len(labels), (3, len(labels)))
    weights = np.stack([np.bincount(row, minlength=len(labels)) for row in rows]).astype(float)
    found = named(labels, probabilities, weights)
    for draw, row in enumerate(rows):
        for name, values in named(labels[row], probabilities[row]).items():
            assert found[name][draw] == pytest.approx(values[0]), name


def test_ties_count_half() -> None:
    assert auroc(np.array([True, False]), np.array([0.5, 0.5]), np.ones((1, 2))) == 0.5


def test_absent_classes_are_undefined_and_leave_the_mean() -> None:
    labels, probabilities = random_case(0, classes=4)
    kept = labels != 3
    found = named(labels[kept], probabilities[kept])
    assert np.isnan(found["auroc/c3"])
    assert found["macro_auroc"] == pytest.approx(np.mean([found[f"auroc/c{k}"][0] for k in range(3)]))


def test_sensitivity_keeps_the_specificity() -> None:
    negative, positive = np.arange(100) / 100, np.array([0.945, 0.95, 0.1])
    scores, truth = np.concatenate((positive, negative)), np.arange(103) < 3
    assert sensitivity(truth, scores, np.ones((1, 103))) == pytest.approx(2 / 3)
    threshold_at_95 = np.sort(negative)[94]
    assert (negative > threshold_at_95).mean() <= 0.05
    with np.errstate(invalid="ignore"):
        assert np.isnan(sensitivity(truth[3:], scores[3:], np.ones((1, 100))))
        assert np.isnan(sensitivity(truth[:3], scores[:3], np.ones((1, 3))))


def test_melanoma_task_leaves_other_cancers_out() -> None:
    names = PAPER15.class_names
    labels = np.array([names.index(n) for n in ("melanoma", "basal_cell_carcinoma", "dermatofibroma")])
    probabilities = np.zeros((3, 15))
    probabilities[:, names.index("melanoma")] = 0.9, 0.99, 0.2
    tasks = {task.name: task for task in PAPER15.tasks()}
    sides = {name: task_scores(task, names, labels, probabilities) for name, task in tasks.items()}
    assert [list(map(len, sides[name])) for name in ("cancer", "melanoma")] == [[2, 1], [1, 1]]
    assert compute("melanoma/auroc", tasks, names, labels, probabilities, np.ones((1, 3))) == 1.0


def test_resamples_keep_a_lesions_pairs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = lesion_weights(["a", "a", "b", "c"], resamples=20)
    assert weights[0].tolist() == [1, 1, 1, 1]
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 3]].sum(1) == 3).all()
    monkeypatch.setattr(comparison, "BLOCK", 4 * 3)
    assert np.array_equal(lesion_weights(["a", "a", "b", "c"], resamples=20), weights)


def test_a_registered_metric_appears_in_every_result(registered: Callable[..., None]) -> None:
    def sure(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return weights @ probabilities[np.arange(len(labels)), labels] / weights.sum(1)

    registered(METRICS, "sureness", Metric("Sureness", sure))
    labels, probabilities = random_case(0)
    assert named(labels, probabilities)["sureness"] == pytest.approx(probabilities[np.arange(200), labels].mean())
    assert metric_title("sureness") == "Sureness"
    assert make_config("debug", {"monitor": "sureness"}).monitor == "sureness"
    with pytest.raises(ConfigError, match=r"unknown monitor 'sure'.*Known: accuracy, .*, sureness"):
        make_config("debug", {"monitor": "sure"})


def test_intervals_cover_a_known_mean() -> None:
    covered = 0
    for seed in range(40):
        values = np.random.default_rng(seed).random(80)
        metric = bootstrap(
            lambda weights, v=values: {"mean": weights @ v / weights.sum(1)}, [str(i) for i in range(80)], resamples=200
        )
        covered += metric["mean"].low <= 0.5 <= metric["mean"].high
    assert covered >= 34


def test_an_undefined_figure_has_no_interval() -> None:
    metric = bootstrap(lambda weights: {"x": np.full(len(weights), np.nan)}, ["a", "b"], resamples=5)["x"]
    assert np.isnan([metric.value, metric.low, metric.high]).all()
