"""``derm-ray reproduce``: the grid, the baselines, and the report."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from derm_ray import __version__, storage
from derm_ray.data.labels import collapse
from derm_ray.data.manifest import Manifest, require_split
from derm_ray.data.prepared import require_size
from derm_ray.data.validation import validate
from derm_ray.domain import LabelSet, PredictionKind, Split, label_set
from derm_ray.errors import ConfigError, DermRayError, ManifestError, OutputExistsError, StorageError
from derm_ray.lease import hold
from derm_ray.models.trunks import TRUNKS
from derm_ray.studies.baseline import run_baseline
from derm_ray.studies.reproduction import PRESETS
from derm_ray.studies.reproduction.gallery import Gallery, make_gallery
from derm_ray.studies.reproduction.grid import Row, as_published, make_trials
from derm_ray.studies.reproduction.predictions import TrialPredictions, read_predictions, write_predictions
from derm_ray.studies.reproduction.report import render_html
from derm_ray.studies.reproduction.results import StudyResults, assemble
from derm_ray.studies.reproduction.trials import UNAVAILABLE, Grid, Resources
from derm_ray.training.batches import labeled

logger = logging.getLogger(__name__)

MARKER = "_STUDY.json"
INVOCATIONS = "invocations"
JSON_NAME, CSV_NAME, HTML_NAME = "results.json", "results.csv", "report.html"
LOGISTIC = "logistic-regression"
MAJORITY = "majority-class"


@dataclass(frozen=True)
class Study:
    """A finished study: metrics and verdicts, and the output files."""

    results: StudyResults
    json_uri: str
    csv_uri: str
    html_uri: str


def reproduce(
    manifest: Manifest,
    out_uri: str,
    *,
    preset: str = "milk10k-cpu",
    label_set_name: str = "paper15",
    seeds: Sequence[int] = (0, 1, 2),
    only: Sequence[str] = (),
    init_weights: Mapping[str, str] | None = None,
    resources: Resources | None = None,
    images: bool = True,
    address: str | None = None,
) -> Study:
    """Train every row of the paper's tables and test its claims; finished trials are not repeated.

    The report shows all trials of the folder, also those of earlier calls with other rows or seeds.

    Args:
        manifest: pairs with both images, diagnosis and split; everything is chosen on val; test is only predicted.
        out_uri: the study's folder; the same call resumes.
        preset: a name in :data:`derm_ray.studies.reproduction.PRESETS`.
        label_set_name: with a cancer task.
        seeds: one trial of each row for each; all different.
        only: names of rows; empty means all. required CAM networks are added.
        init_weights: trunk -> safetensors file; others use torchvision's download. Of ``googlenet_2014`` and
            ``resnet50_v1``: these are trained in place of torchvision's GoogLeNet and ResNet-50.
        resources: of each trial.
        images: show images in the report.
        address: Ray cluster; ``None`` is ``RAY_ADDRESS`` or a local Ray.

    Raises:
        ConfigError, ManifestError, StorageError: the input is not usable.
        OutputExistsError: the folder holds a study of another manifest or from other weights, or something else, or
            another process works on it.
    """
    labels = _detailed(label_set_name)
    manifest = collapse(manifest, labels)
    weights = dict(init_weights or {})
    table = as_published(PRESETS[preset](label_set_name), weights)
    used = {row.config.trunk for row in table} | {"vgg16"}  # the logistic regression's
    if unused := sorted(set(weights) - used):
        raise ConfigError(f"--init-weights {unused[0]}=...: no row has this trunk. Used are {', '.join(sorted(used))}.")
    rows = _chosen(table, only)
    for row in rows:
        require_size(manifest, row.config.preprocessing, "the preset's size")
    _check(manifest, labels)
    out_uri = storage.absolute(out_uri)
    metadata: dict[str, Any] = {
        "derm_ray_version": __version__,
        "manifest_digest": manifest.digest,
        "label_set": label_set_name,
        "preset": preset,
    }
    _claim(out_uri, metadata, {trunk: storage.sha256(storage.read_bytes(uri)) for trunk, uri in weights.items()})
    with hold(storage.join(out_uri, INVOCATIONS)):
        trials = make_trials(rows, seeds)
        grid = Grid(manifest, out_uri, weights, resources or Resources(), address)
        outcomes = grid.run(trials)
        asked = {trial.name for trial in trials}
        before = [trial for trial in make_trials(table, sorted({*seeds, *grid.seeds()})) if trial.name not in asked]
        outcomes = sorted([*outcomes, *grid.finished(before)], key=lambda o: (table.index(o.trial.row), o.trial.seed))
        baselines = {
            MAJORITY: ("Majority class", _majority(manifest, labels)),
            LOGISTIC: ("Logistic regression on frozen VGG-16", _logistic(manifest, labels, out_uri, table, weights)),
        }
        split = {str(s): len(manifest.select(s)) for s in Split}
        metadata |= {"seeds": sorted({outcome.trial.seed for outcome in outcomes}), "pairs": split}
        metadata["grouping"] = "patient" if any(manifest.column("patient_id")) else "lesion"
        plain = next(row.config.head for row in table if row.config.head != "cam")
        results = assemble(outcomes, baselines, metadata, plain=plain)
        return _write(results, out_uri, lambda: make_gallery(results, manifest, grid) if images else None)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse ``0,1,2``; anything else is a ``ConfigError``."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(map(int, parts))) != len(parts):
        raise ConfigError(f"--seeds {text!r}: expected different whole numbers separated by commas, such as 0,1,2.")
    return tuple(map(int, parts))


def parse_weights(assignments: Sequence[str]) -> dict[str, str]:
    """Parse ``TRUNK=URI``; a bare URI is VGG-16's, and an unknown trunk is a ``ConfigError``."""
    weights: dict[str, str] = {}
    for assignment in assignments:
        trunk, equals, uri = assignment.partition("=")
        if equals and (trunk in TRUNKS or "/" not in trunk):
            TRUNKS.check(trunk)
            weights[trunk] = uri
        else:
            weights["vgg16"] = assignment
    return weights


def _detailed(label_set_name: str) -> LabelSet:
    labels = label_set(label_set_name)
    if labels.collapses:
        raise ConfigError(
            f"label set {label_set_name!r} is a binary task. Use the label set of its diagnoses, such as paper15."
        )
    if "cancer" not in {task.name for task in labels.tasks()}:
        raise ConfigError(f"label set {label_set_name!r} has no cancer task, which the study's tables need.")
    return labels


def _chosen(rows: Sequence[Row], only: Sequence[str]) -> tuple[Row, ...]:
    known = [row.name for row in rows]
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(f"unknown row {unknown[0]!r}. Known: {', '.join(known)}.")
    needed = {row.cam for row in rows if row.name in only}
    return tuple(row for row in rows if not only or row.name in only or row.name in needed)


def _check(manifest: Manifest, labels: LabelSet) -> None:
    for column in ("clinical_uri", "dermoscopy_uri"):
        if not any(manifest.column(column)):
            raise ConfigError(
                f"{manifest.uri}: no pair has a {column.removesuffix('_uri')} image. The study compares both "
                "modalities; give a manifest with both."
            )
    validate(manifest, labels, complete=tuple(Split), purpose="the study")
    for split in Split:
        require_split(manifest, split)


def _claim(out_uri: str, metadata: Mapping[str, Any], weights: Mapping[str, str]) -> None:
    """Record the study of the folder, or check that it is the same; weights of more trunks may be added later."""
    marker = storage.join(out_uri, MARKER)
    before: dict[str, Any] = {}
    if storage.exists(marker):
        before = storage.read_json(marker)
        now = {**metadata, "init_weights": {trunk: weights.get(trunk) for trunk in before.get("init_weights", {})}}
        for key, value in now.items():
            if before.get(key) != value:
                raise OutputExistsError(
                    f"{out_uri} contains a study whose {key} is {before.get(key)!r}, now {value!r}. Choose another "
                    "--out."
                )
    elif storage.list_files(out_uri):
        raise OutputExistsError(f"{out_uri} contains files that are not a study. Choose another --out.")
    if before != (noted := {**metadata, "init_weights": dict(weights)}):
        storage.write_json(marker, noted)


def _truth(manifest: Manifest, labels: LabelSet, given: Mapping[PredictionKind, Any]) -> TrialPredictions:
    test = labeled(manifest, Split.TEST, labels)
    ids = tuple(pair.pair_id for pair in test.pairs), tuple(pair.lesion_id for pair in test.pairs)
    return TrialPredictions(labels, *ids, test.labels, given, {}, {})


def _majority(manifest: Manifest, labels: LabelSet) -> TrialPredictions:
    counts = Counter(manifest.select(Split.TRAIN).column("diagnosis"))
    winner = labels.class_names.index(str(counts.most_common(1)[0][0]))
    constant = np.zeros((len(manifest.select(Split.TEST)), len(labels.class_names)), np.float32)
    constant[:, winner] = 1
    return _truth(manifest, labels, {PredictionKind.CROSS: constant})


def _logistic(
    manifest: Manifest, labels: LabelSet, out_uri: str, rows: Sequence[Row], weights: Mapping[str, str]
) -> TrialPredictions | str:
    """Return the logistic regression's answers, kept like a trial's."""
    config = rows[0].config
    if config.trunk == "tiny" and "vgg16" not in weights:
        return "not run: this preset has no ImageNet weights"
    folder = storage.join(out_uri, "trials", LOGISTIC)
    found = read_predictions(folder)
    if found is None:
        logger.info("logistic regression on frozen features")
        try:
            result = run_baseline(manifest, labels, init_weights=weights.get("vgg16"), size=config.preprocessing.size)
        except StorageError as error:
            return f"failed: {error}" if "vgg16" in weights else UNAVAILABLE
        except ManifestError:
            return "failed: an image cannot be used; derm-ray data validate --images names it"
        found = _truth(manifest, labels, result.predictions)
        write_predictions(found, folder)
    return found


def _write(results: StudyResults, out_uri: str, make: Callable[[], Gallery | None]) -> Study:
    """Write the metrics first, so that a failing gallery does not lose them."""
    json_uri, csv_uri, html_uri = (storage.join(out_uri, name) for name in (JSON_NAME, CSV_NAME, HTML_NAME))
    storage.write_json(json_uri, results.to_json())
    storage.write_bytes(csv_uri, results.to_csv().encode())
    try:
        gallery = make()
    except DermRayError as error:
        logger.warning("the report has no gallery: %s", error)
        gallery = None
    storage.write_bytes(html_uri, render_html(results, gallery).encode())
    return Study(results, json_uri, csv_uri, html_uri)
