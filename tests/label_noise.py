"""How well the audit finds planted label errors: ``python -m tests.label_noise MILK10K WEIGHTS``.

Of MILK10k's lesions, 5% get another diagnosis at random. Out-of-fold predictions are those of a logistic regression on
frozen features, fitted on the labels with their errors.
"""

import sys
import tempfile

import numpy as np
from sklearn.metrics import average_precision_score

from derm_ray.audit.label_errors import find_label_errors
from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.preprocessing import Preprocessing
from derm_ray.domain import MILK10K, PredictionKind
from derm_ray.evaluation.stored_predictions import StoredPredictions, write_predictions
from derm_ray.models.trunks import Trunk
from derm_ray.models.weights import load_trunk_weights, read_init_weights
from derm_ray.studies.baseline import _columns, _extract, _fit, _predict

TRUNK, SIZE = "timm/tf_efficientnet_lite0", 224
SHARE, FOLDS, SEEDS = 0.05, 5, 3


def main(milk10k: str, weights: str) -> None:
    """See the module."""
    manifest = import_milk10k(milk10k, MILK10K, "m.parquet").manifest.absolute()
    names = MILK10K.class_names
    truth = np.array([names.index(str(name)) for name in manifest.column("diagnosis")])
    ids = tuple(str(name) for name in manifest.column("pair_id"))
    trunk = Trunk(TRUNK)
    load_trunk_weights(trunk, read_init_weights(TRUNK, weights), weights)
    inputs = _columns(_extract(trunk, manifest.pairs(), "m.parquet", Preprocessing(SIZE)), PredictionKind.CROSS)
    for seed in range(SEEDS):
        generator = np.random.default_rng(seed)
        wrong = np.zeros(len(truth), bool)
        wrong[generator.choice(len(truth), round(SHARE * len(truth)), replace=False)] = True
        labels = np.where(wrong, (truth + generator.integers(1, len(names), len(truth))) % len(names), truth)
        folds = generator.permutation(len(truth)) % FOLDS
        scores = np.zeros((len(truth), len(names)))
        for fold in range(FOLDS):
            scores[folds == fold] = _predict(
                _fit(inputs[folds != fold], labels[folds != fold], 1e-3), inputs[folds == fold], MILK10K
            )
        held = StoredPredictions(
            MILK10K, ids, ids, labels, folds + 1, {kind: scores.astype(np.float32) for kind in PredictionKind}
        )
        given = scores[np.arange(len(labels)), labels]
        with tempfile.TemporaryDirectory() as folder:
            write_predictions(held, f"{folder}/out_of_fold.parquet")
            noisy = manifest.with_column("diagnosis", [names[label] for label in labels])
            found = find_label_errors(noisy, f"{folder}/out_of_fold.parquet")
        flagged = np.array([error.row for error in found.errors])
        listed = np.zeros(len(truth))
        listed[flagged] = 1 - np.array([error.given_probability for error in found.errors])
        print(
            f"seed {seed}: accuracy {(scores.argmax(1) == truth).mean():.3f}; {wrong.sum()} planted among {len(truth)}, "
            f"{len(flagged)} listed, {wrong[flagged].sum()} of them planted, of the first 50 "
            f"{wrong[flagged[:50]].sum()}; average precision {average_precision_score(wrong, listed):.3f} of the list, "
            f"{average_precision_score(wrong, 1 - given):.3f} by the probability of the given diagnosis alone"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
