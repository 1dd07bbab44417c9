"""``derm-ray evaluate``."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import EngineOption, JsonOption, ManifestOption, ModelOption, emit
from derm_ray.domain import CancerDefinition, Split

if TYPE_CHECKING:
    from derm_ray.data.manifest import Manifest
    from derm_ray.evaluation.evaluate import Evaluation


def evaluate(
    model: ModelOption,
    manifest: ManifestOption,
    out: Annotated[str, typer.Option("--out", help="Folder for evaluation.json and report.html.")],
    split: Annotated[Split, typer.Option("--split", help="Part of the manifest.")] = Split.TEST,
    cancer_definition: Annotated[
        CancerDefinition, typer.Option("--cancer-definition", help="isic counts carcinoma in situ as cancer.")
    ] = CancerDefinition.PAPER,
    swap: Annotated[bool, typer.Option("--swap", help="Show the network each image in the other's place.")] = False,
    engine: EngineOption = "auto",
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="Predict on a GPU of the cluster.")] = False,
    cpus: Annotated[int | None, typer.Option("--cpus", min=1, help="CPUs of the cluster to predict with; 1.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster; default RAY_ADDRESS, or this process.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a model: clinical, dermoscopy and cross predictions with 95% intervals, as JSON and HTML."""
    from derm_ray import storage
    from derm_ray.data.manifest import read_manifest
    from derm_ray.errors import ConfigError
    from derm_ray.evaluation.report import summary_text, write_evaluation

    on_cluster = bool(address or os.environ.get("RAY_ADDRESS"))
    if (gpu or cpus) and not on_cluster:
        raise ConfigError(
            "--gpu and --cpus ask a cluster for them (--address); without one this process takes what the machine has."
        )
    task = (storage.absolute(model), read_manifest(manifest), split, cancer_definition, swap, engine)
    if on_cluster:
        from derm_ray.runtime import ray_session, run_remote

        with ray_session(address) as session:
            session.require(cpus=cpus or 1, gpus=int(gpu), worker_cpus=cpus or 1)
            evaluation = run_remote(_measure, *task, num_cpus=cpus or 1, num_gpus=int(gpu))
    else:
        evaluation = _measure(*task)
    json_uri, html_uri = write_evaluation(evaluation, out)
    exchanged = ", images exchanged" if swap else ""
    text = (
        f"{evaluation.pairs} pairs of {split}{exchanged}, engine {evaluation.provenance['engine']}\n\n"
        f"{summary_text(evaluation)}\n\n{json_uri}\n{html_uri}\n{RESEARCH_NOTICE}"
    )
    emit({"evaluation": json_uri, "report": html_uri, **evaluation.to_json()}, text, as_json=as_json)


def _measure(
    model: str,
    manifest: "Manifest",
    split: Split,
    definition: CancerDefinition,
    swapped: bool,
    engine: str,
) -> "Evaluation":
    """Load a model where this runs, and measure it."""
    from derm_ray.bundle import load_bundle
    from derm_ray.evaluation.evaluate import evaluate as run
    from derm_ray.inference.predictor import Predictor

    predictor = Predictor(load_bundle(model), engine)
    return run(predictor, manifest, split, definition=definition, swapped=swapped)
