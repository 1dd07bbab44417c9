"""Training in folds: a run for each, and one ensemble whose calibration rests on the lesions that each left out."""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from derm_ray import bundle, storage
from derm_ray.data.labels import collapse, decided
from derm_ray.data.manifest import Manifest
from derm_ray.data.patient_columns import fit_encoder
from derm_ray.data.prepared import is_prepared
from derm_ray.data.splits import assign_folds
from derm_ray.data.validation import validate
from derm_ray.domain import Split, label_set
from derm_ray.evaluation.calibration import fit_calibration
from derm_ray.evaluation.evaluate import finite_metrics
from derm_ray.evaluation.kinds import having, main_kind
from derm_ray.evaluation.stored_predictions import OUT_OF_FOLD, joined, read_predictions, write_predictions
from derm_ray.lease import hold
from derm_ray.runtime import ray_session
from derm_ray.training.batches import check_batch_size, labeled
from derm_ray.training.config import TrainConfig
from derm_ray.training.run.driver import TrainResult, train
from derm_ray.training.run.folder import BUNDLE, INVOCATIONS, VAL, claim, run_folder
from derm_ray.training.run.reference import make_reference, measure_images

logger = logging.getLogger(__name__)


def train_folds(
    config: TrainConfig,
    manifest: Manifest,
    out_uri: str,
    name: str,
    folds: int,
    *,
    overwrite: bool = False,
    **options: Any,
) -> TrainResult:
    """Train a network for each fold of train and val, and seal them as one ensemble.

    Each lesion of train and val is left out of one run, which predicts it: temperatures and operating points of the
    ensemble are fitted on these out-of-fold predictions. The runs are in folders ``fold_1`` and so on; the same call
    resumes.

    Args:
        config, manifest, out_uri, name: as of :func:`derm_ray.training.run.driver.train`.
        folds: how many, 2 or more.
        overwrite: train all folds again.
        options: as of :func:`derm_ray.training.run.driver.train`.

    Returns:
        The ensemble; its metrics are those of the out-of-fold predictions.

    Raises:
        ConfigError: there are too few lesions, in all or of a diagnosis; see
            :func:`derm_ray.data.splits.assign_folds`.
        ManifestError, StorageError, OutputExistsError, TrainingError: as of ``train``.
    """
    labels = label_set(config.label_set)
    run_uri = run_folder(out_uri, name)
    collapsed = collapse(manifest, labels, coarse=(Split.TRAIN, Split.VAL))
    validate(collapsed, labels, labeled=(Split.TRAIN, Split.VAL))
    encoder = None
    if config.patient_fields:  # one encoding for all networks, so that they can be one bundle
        folded = collapsed.where([split in (Split.TRAIN, Split.VAL) for split in collapsed.column("split")])
        encoder = fit_encoder(config.patient_fields, manifest, folded)
    most = options.get("max_workers") or options.get("workers", 1)
    of_row = _folds_of(manifest, decided(collapsed, labels), folds, config, most)
    description: dict[str, Any] = {
        "folds": folds,
        "manifest_digest": manifest.digest,
        "training": config.to_json(),
        **{key: options.get(key) for key in ("init_weights", "cam", "teacher")},
    }
    with hold(storage.join(run_uri, INVOCATIONS)) as lease:
        description |= claim(run_uri, description, overwrite=overwrite)
        members = []
        for number in range(1, folds + 1):
            part = _of_fold(manifest, of_row, number)
            fold_uri = storage.join(run_uri, f"fold_{number}")
            if not storage.exists(storage.join(fold_uri, BUNDLE, bundle.INDEX)):
                logger.info("fold %d of %d", number, folds)
                train(config, part, run_uri, f"fold_{number}", encoder=encoder, **options)
            members.append(fold_uri)
        lease.check()
        with ray_session(options.get("address")):  # each run has ended its own
            return _seal(run_uri, members, _of_fold(manifest, of_row, 1), description, config)


def _folds_of(manifest: Manifest, collapsed: Manifest, folds: int, config: TrainConfig, workers: int) -> list[int]:
    """Return the fold of each row of ``manifest``, from 1; 0 for other splits and what the label set excludes.

    Raises:
        ConfigError: there are too few lesions; a batch is larger than the rest of a fold.
    """
    assigned = assign_folds(collapsed, folds, config.seed)
    for warning in assigned.warnings:
        logger.warning("%s", warning)
    sizes = Counter(fold for fold in assigned.of_row if fold)  # now, not once the folds before are trained
    check_batch_size(sizes.total() - max(sizes.values()), config.global_batch_size, workers, config.accumulation)
    of_pair = dict(zip(collapsed.column("pair_id"), assigned.of_row, strict=True))
    return [of_pair.get(pair_id, 0) for pair_id in manifest.column("pair_id")]


def _of_fold(manifest: Manifest, of_row: list[int], number: int) -> Manifest:
    """Return the manifest with one fold as val and the others as train; rows of no fold keep their split."""
    splits = [
        split if fold == 0 else Split.VAL if fold == number else Split.TRAIN
        for split, fold in zip(manifest.column("split"), of_row, strict=True)
    ]
    return manifest.with_column("split", splits)


def _seal(
    run_uri: str, members: list[str], manifest: Manifest, description: Mapping[str, Any], config: TrainConfig
) -> TrainResult:
    """Write the out-of-fold predictions and the ensemble; ``manifest`` is that of any fold."""
    models = [bundle.load_bundle(storage.join(uri, BUNDLE)) for uri in members]
    labels, first = label_set(config.label_set), models[0]
    found = joined([read_predictions(storage.join(uri, VAL)) for uri in members])
    write_predictions(found, storage.join(run_uri, OUT_OF_FOLD))
    calibration = fit_calibration(labels, found.labels, found.scores, config.decide)
    metrics = finite_metrics(labels, found.labels, found.scores)
    pairs = [pair for split in (Split.TRAIN, Split.VAL) for pair in labeled(manifest, split, labels).pairs]
    images, prepared = measure_images(pairs, config.preprocessing, config.seed), is_prepared(manifest)
    digest = bundle.save_bundle(
        storage.join(run_uri, BUNDLE),
        network=first.network,
        label_set=labels,
        preprocessing=first.preprocessing,
        weights={f"{n}.{key}": value for n, model in enumerate(models) for key, value in model.weights.items()},
        members=len(models),
        tta=first.tta,
        patient=first.patient,
        provenance={
            **description,
            "metrics": metrics,
            "grouping": "patient" if any(manifest.column("patient_id")) else "lesion",
            "members": [{"run_id": model.run_id, "model_digest": model.model_digest} for model in models],
        },
        calibration=calibration,
        reference=make_reference(labels, found.scores, calibration, images, prepared=prepared),
    )
    kind = main_kind({kind: having(scores) for kind, scores in found.scores.items()})
    return TrainResult(run_uri, storage.join(run_uri, BUNDLE), description["run_id"], digest, None, metrics, kind)
