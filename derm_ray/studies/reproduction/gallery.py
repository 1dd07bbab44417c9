"""The paper's Fig. 3: lesions classified incorrectly from one image and correctly from both, with their maps."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from derm_ray.bundle import load_bundle
from derm_ray.data.manifest import Manifest
from derm_ray.data.preprocessing import PairPixels, load_pairs
from derm_ray.domain import Modality, PredictionKind
from derm_ray.evaluation.plots import jpeg_uri
from derm_ray.inference.saliency import SaliencyMapper, overlay
from derm_ray.studies.reproduction.predictions import TrialPredictions
from derm_ray.studies.reproduction.results import StudyResults
from derm_ray.studies.reproduction.trials import Grid

ROW = "triple-cam_bp"
CASES = 8


@dataclass(frozen=True)
class Case:
    """One lesion: titles of its diagnosis and of each prediction; both images and their overlays as data URIs."""

    truth: str
    predictions: Mapping[PredictionKind, str]
    images: tuple[str, ...]


@dataclass(frozen=True)
class Gallery:
    """Gallery of one trained network.

    ``count`` of all test pairs are wrong on either image alone and right on both; ``cases`` are some of these, then of
    those that only one image alone gets wrong.
    """

    seed: int
    count: int
    pairs: int
    cases: tuple[Case, ...]


def wrong_alone_right_together(trial: TrialPredictions) -> tuple[list[int], list[int]]:
    """Return the rows that cross gets right and both single images get wrong, and those where one does.

    Each list begins with the largest probability of the true class.
    """
    right = {kind: trial.named(kind) == trial.truth for kind in trial.given}
    clinical, dermoscopy, cross = (right[kind] for kind in PredictionKind)
    certainty = trial.given[PredictionKind.CROSS][np.arange(len(trial.truth)), trial.truth]
    order = np.argsort(-certainty, kind="stable")
    both, either = cross & ~clinical & ~dermoscopy, cross & (clinical != dermoscopy)
    return [int(i) for i in order if both[i]], [int(i) for i in order if either[i]]


def make_gallery(results: StudyResults, manifest: Manifest, grid: Grid) -> Gallery | None:
    """Return the gallery of the first seed of Triple-Net + CAM-BP, or ``None`` where it was not run."""
    row = results.row(ROW)
    if row is None or not row.seeds:
        return None
    seed, trial = next(iter(row.seeds.items()))
    both, either = wrong_alone_right_together(trial)
    shown = [*both, *either][:CASES]
    by_id = {pair.pair_id: pair for pair in manifest.pairs()}
    bundle = load_bundle(grid.bundle_uri(ROW, seed))
    with ThreadPoolExecutor(4) as executor:
        loaded = load_pairs([by_id[trial.pair_ids[i]] for i in shown], bundle.preprocessing, executor)
    usable = [(i, pair) for i, pair in zip(shown, loaded, strict=True) if isinstance(pair, PairPixels)]
    mapper = SaliencyMapper(bundle)
    maps = [mapper.maps(pair) for _, pair in usable]
    titles = trial.labels.titles
    named_by_kind = {kind: trial.named(kind) for kind in trial.given}
    cases = []
    for (i, pair), found in zip(usable, maps, strict=True):
        given = {modality: image for modality in Modality if (image := pair.of(modality)) is not None}
        drawn = [*given.values(), *(overlay(image, found[modality]) for modality, image in given.items())]
        predictions = {kind: titles[int(named[i])] for kind, named in named_by_kind.items()}
        cases.append(Case(titles[int(trial.truth[i])], predictions, tuple(jpeg_uri(image) for image in drawn)))
    return Gallery(seed, len(both), len(trial.truth), tuple(cases))
