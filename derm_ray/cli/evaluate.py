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
    out: Annotated[str, typer.Option(help="Folder for evaluation.json and report.html.")],
    split: Annotated[Split, typer.Option(help="Split to evaluate.")] = Split.TEST,
    cancer_definition: Annotated[
        CancerDefinition,
        typer.Option(help="paper, or isic, which also counts carcinoma in situ as cancer."),
    ] = CancerDefinition.PAPER,
    swap: Annotated[bool, typer.Option("--swap", help="Swap the clinical and the dermoscopy image.")] = False,
    engine: EngineOption = "auto",
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="Predict on a GPU of the cluster.")] = False,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of the cluster to use. Default: 1.")] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster. Default: RAY_ADDRESS, or this process without a cluster."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model: clinical, dermoscopy and cross predictions with 95% intervals, as JSON and HTML."""
    from derm_ray import storage
    from derm_ray.data.manifest import read_manifest
    from derm_ray.errors import ConfigError, counted
    from derm_ray.evaluation.report import summary_text, write_evaluation

    on_cluster = bool(address or os.environ.get("RAY_ADDRESS"))
    if (gpu or cpus) and not on_cluster:
        raise ConfigError(
            "--gpu and --cpus need a cluster. Give --address, or remove them: without a cluster this process uses the "
            "whole machine."
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
    swapped = ", images swapped" if swap else ""
    lesions = counted(evaluation.lesions, "lesion")
    text = (
        f"{evaluation.pairs} pairs ({lesions}) of {split}{swapped}, engine {evaluation.provenance['engine']}\n\n"
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
    """Load and evaluate a model in this process."""
    from derm_ray.bundle import load_bundle
    from derm_ray.evaluation.evaluate import evaluate as run
    from derm_ray.inference.predictor import Predictor

    predictor = Predictor(load_bundle(model), engine)
    return run(predictor, manifest, split, definition=definition, swapped=swapped)
