"""The whole pipeline on synthetic pairs, in minutes on two cores."""

import logging
from dataclasses import dataclass

from derm_ray import __version__, storage
from derm_ray.bundle import load_bundle
from derm_ray.data.inputs import ManifestInput
from derm_ray.data.manifest import write_manifest
from derm_ray.data.splits import split_manifest
from derm_ray.data.synthetic import synthesize
from derm_ray.domain import PAPER15
from derm_ray.errors import OutputExistsError
from derm_ray.evaluation.evaluate import evaluate
from derm_ray.evaluation.evaluation import Evaluation
from derm_ray.evaluation.report import write_evaluation
from derm_ray.inference.predictor import Predictor
from derm_ray.scoring.pipeline import ScoringResult, score
from derm_ray.training.config import make_config
from derm_ray.training.run.driver import train

logger = logging.getLogger(__name__)

MARKER = "_DEMO.json"
PAIRS = 600
EPOCHS = 8
WORKERS = 2


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo: the evaluation and its page, the bulk run over all pairs, model and manifest."""

    report_uri: str
    evaluation: Evaluation
    scores: ScoringResult
    bundle_uri: str
    manifest_uri: str


def run_demo(out_uri: str, *, pairs: int = PAIRS, epochs: int = EPOCHS) -> DemoResult:
    """Generate synthetic pairs, train a small Triple-Net, evaluate it and score all pairs in bulk.

    Raises:
        OutputExistsError: the folder contains something else than an earlier demo, which is replaced.
    """
    out_uri = storage.absolute(out_uri)
    marker_uri = storage.join(out_uri, MARKER)
    if storage.exists(marker_uri):
        storage.remove_tree(out_uri)
    elif storage.list_files(out_uri):
        raise OutputExistsError(f"{out_uri} contains files that are not a demo. Choose another --out.")
    storage.write_json(marker_uri, {"derm_ray_version": __version__})
    data_uri, runs_uri, scores_uri = (storage.join(out_uri, name) for name in ("data", "runs", "scores"))
    logger.info("1/4  generating %d synthetic lesion pairs", pairs)
    manifest = split_manifest(synthesize(data_uri, pairs, PAPER15)).manifest
    write_manifest(manifest, manifest.uri)
    logger.info("2/4  training a small Triple-Net on them, %d workers", WORKERS)
    trained = train(make_config("debug", {"epochs": epochs}), manifest, runs_uri, "demo", workers=WORKERS)
    logger.info("3/4  evaluating it on the test split")
    evaluation = evaluate(Predictor(load_bundle(trained.bundle_uri)), manifest)
    _, report_uri = write_evaluation(evaluation, storage.join(out_uri, "evaluation"))
    logger.info("4/4  scoring all pairs in bulk")
    scores = score(trained.bundle_uri, ManifestInput(manifest.uri), scores_uri, shard_size=100)
    return DemoResult(report_uri, evaluation, scores, trained.bundle_uri, manifest.uri)
