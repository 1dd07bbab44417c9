"""What lesions with coarse labels or one image are worth: ``python -m tests.partial_data STUDY MILK10K WEIGHTS OUT``.

Preset ``light`` with fewer epochs, on real lesions. STUDY is one of:

- ``coarse``: 70% of the labels of train get the class that HAM10000 would give them; learned by the likelihood of their
  classes, or left out where that is coarse. The 15 diagnoses of the paper.
- ``single``: of 2 of 3 lesions of train one image is taken away; trained on all, or on the pairs that remain. MILK10k's
  11 diagnoses.
- ``dropout``: pairs with ``modality_dropout``, and networks trained on clinical or dermoscopy images alone, answer single
  images.

Runs are kept in OUT, and not repeated.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from derm_ray.bundle import load_bundle
from derm_ray.data.importers.milk10k import import_milk10k
from derm_ray.data.labels import collapse
from derm_ray.data.loading import load_all
from derm_ray.data.manifest import Manifest
from derm_ray.data.splits import split_manifest
from derm_ray.domain import MILK10K, PAPER15, LabelSet, PredictionKind, Split
from derm_ray.evaluation.comparison import bootstrap
from derm_ray.evaluation.metrics import Draws, compute
from derm_ray.inference.predictor import Predictor
from derm_ray.training.config import TrainConfig, make_config
from derm_ray.training.run.driver import train

SEEDS = (0, 1, 2)
EPOCHS = 8
SHARE_COARSE = 0.7
DROPOUT = 0.3
HAM10000 = {
    "naevus": ("blue_naevus", "compound_naevus", "dermal_naevus", "junctional_naevus"),
    "benign_keratosis": ("keratotic_lesion", "seborrheic_keratosis", "solar_lentigo"),
    "akiec": ("actinic_keratosis", "bowens_disease"),
    "vascular_lesion": ("hemangioma",),
}
Variant = Callable[[Manifest, int], tuple[Manifest, dict[str, float]]]


def of_train(manifest: Manifest, seed: int, share: float) -> list[bool]:
    """Return a share of the rows of train, at random."""
    drawn = np.random.default_rng(seed).random(len(manifest)) < share
    return [
        bool(chosen) and split == Split.TRAIN for chosen, split in zip(drawn, manifest.column("split"), strict=True)
    ]


def coarse(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
    """Labels as HAM10000 would give them."""
    names = {fine: name for name, many in HAM10000.items() for fine in many}
    chosen = zip(manifest.column("diagnosis"), of_train(manifest, seed, SHARE_COARSE), strict=True)
    return manifest.with_column("diagnosis", [names.get(str(name), name) if at else name for name, at in chosen]), {}


def without_coarse(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
    """The same, without the lesions whose label is coarse then."""
    return collapse(coarse(manifest, seed)[0], PAPER15), {}


def single(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
    """One image of 2 of 3 lesions taken away, either as often."""
    chosen = of_train(manifest, seed, 2 / 3)
    clinical = np.random.default_rng((seed, 1)).random(len(manifest)) < 0.5
    for column, which in (("clinical_uri", clinical), ("dermoscopy_uri", ~clinical)):
        values = zip(manifest.column(column), chosen, which, strict=True)
        manifest = manifest.with_column(column, [None if at and gone else uri for uri, at, gone in values])
    return manifest, {}


def pairs_alone(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
    """The pairs that remain then."""
    chosen = of_train(manifest, seed, 2 / 3)
    return manifest.where([not at for at in chosen]), {}


def dropout(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
    """All pairs, one image of some left out in each epoch."""
    return manifest, {"modality_dropout": DROPOUT}


def alone(column: str) -> Variant:
    """Return the variant with one modality."""

    def variant(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
        fitted = [split != Split.TEST for split in manifest.column("split")]
        values = zip(manifest.column(column), fitted, strict=True)
        return manifest.with_column(column, [None if at else uri for uri, at in values]), {}

    return variant


def pairs_as_they_are(manifest: Manifest, seed: int) -> tuple[Manifest, dict[str, float]]:
    """All pairs."""
    return manifest, {}


STUDIES: dict[str, tuple[LabelSet, dict[str, Variant], list[tuple[str, str, PredictionKind]]]] = {
    "coarse": (
        PAPER15,
        {"set_likelihood": coarse, "left_out": without_coarse},
        [("set_likelihood", "left_out", PredictionKind.CROSS)],
    ),
    "single": (
        MILK10K,
        {"all": single, "pairs_alone": pairs_alone},
        [("all", "pairs_alone", PredictionKind.CROSS)],
    ),
    "dropout": (
        MILK10K,
        {
            "dropout": dropout,
            "no_dropout": pairs_as_they_are,
            "clinical": alone("dermoscopy_uri"),
            "dermoscopy": alone("clinical_uri"),
        },
        [
            ("dropout", "clinical", PredictionKind.CLINICAL),
            ("dropout", "dermoscopy", PredictionKind.DERMOSCOPY),
            ("no_dropout", "clinical", PredictionKind.CLINICAL),
            ("no_dropout", "dermoscopy", PredictionKind.DERMOSCOPY),
            ("dropout", "no_dropout", PredictionKind.CROSS),
        ],
    ),
}


def scores(config: TrainConfig, manifest: Manifest, test: Manifest, out: Path, name: str, weights: str) -> Path:
    """Train once, and return the file with the probabilities of the test lesions (N, 3, K)."""
    path = out / f"{name}.npy"
    if not path.exists():
        trained = train(config, manifest, str(out / "runs"), name, init_weights=weights, workers=2)
        bundle = load_bundle(trained.bundle_uri)
        predictor = Predictor(bundle, "torch", device=torch.device("cpu"))
        found = [
            prediction.per_input_predictions
            for chunk in load_all(test.pairs(), bundle.preprocessing, test.uri)
            for prediction in predictor.predict(chunk)
        ]
        np.save(path, np.array([[one[kind] for kind in PredictionKind] for one in found]))
    return path


def main(study: str, milk10k: str, weights: str, out: str) -> None:
    """See the module."""
    labels, variants, comparisons = STUDIES[study]
    whole = collapse(import_milk10k(milk10k, labels, "m.parquet").manifest.absolute(), labels)
    whole = split_manifest(whole).manifest
    test = whole.select(Split.TEST)
    truth = np.array([labels.class_names.index(str(name)) for name in test.column("diagnosis")])
    lesions = [str(name) for name in test.column("lesion_id")]
    folder = Path(out) / study
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Path]] = {name: [] for name in variants}
    for seed in SEEDS:
        for name, variant in variants.items():
            changed, settings = variant(whole, seed)
            config = make_config("light", {"label_set": labels.name, "epochs": EPOCHS, "seed": seed, **settings})
            files[name].append(scores(config, changed, test, folder, f"{name}-seed{seed}", weights))
    for first, second, kind in comparisons:
        place = list(PredictionKind).index(kind)
        names = {name: [np.load(path)[:, place] for path in files[name]] for name in (first, second)}

        def difference(
            weights: Draws, names: dict[str, list[Draws]] = names, first: str = first, second: str = second
        ) -> dict[str, Draws]:
            means = {
                name: np.mean([compute("macro_auroc", {}, labels.class_names, truth, p, weights) for p in all_of], 0)
                for name, all_of in names.items()
            }
            return {**means, "difference": means[first] - means[second]}

        found = bootstrap(difference, lesions)
        shown = ", ".join(f"{name} {of.value:.3f} ({of.low:.3f} to {of.high:.3f})" for name, of in found.items())
        print(f"{study}, {kind}, macro AUROC, mean of {len(SEEDS)} seeds on {len(test)} lesions: {shown}")


if __name__ == "__main__":
    main(*sys.argv[1:])
