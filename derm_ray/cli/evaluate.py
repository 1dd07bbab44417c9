"""``derm-ray evaluate``."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import EngineOption, JsonOption, emit, one_of
from derm_ray.domain import CancerDefinition, Split
from derm_ray.errors import ConfigError

if TYPE_CHECKING:
    from derm_ray.data.manifest import Manifest
    from derm_ray.evaluation.evaluation import Evaluation


def evaluate(
    out: Annotated[str, typer.Option(help="Folder for evaluation.json and report.html.")],
    model: Annotated[str | None, typer.Option(help="Bundle folder: a path or URI.")] = None,
    manifest: Annotated[str | None, typer.Option(help="Manifest file (Parquet, CSV or JSONL): a path or URI.")] = None,
    out_of_fold: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Folder of a run that was trained with --folds: evaluate its out-of-fold predictions, in place of "
            "--model and --manifest.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="Another model of the same label set: also report how much better --model is on the same lesions.",
        ),
    ] = None,
    split: Annotated[Split, typer.Option(help="Split to evaluate.", **one_of(Split, "split"))] = Split.TEST,
    cancer_definition: Annotated[
        CancerDefinition,
        typer.Option(
            help="paper, or isic, which also counts carcinoma in situ as cancer.",
            **one_of(CancerDefinition, "cancer definition"),
        ),
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

    if out_of_fold is not None:
        unused: dict[str, object] = {"--model": model, "--manifest": manifest, "--against": against}
        unused |= {"--swap": swap, "--gpu": gpu, "--cpus": cpus}
        if given := [option for option, value in unused.items() if value]:
            raise ConfigError(f"--out-of-fold evaluates stored predictions. Remove {', '.join(given)}.")
        evaluation = _out_of_fold(out_of_fold, cancer_definition)
        _write(evaluation, f"out-of-fold predictions of {evaluation.provenance['folds']} folds", out, as_json=as_json)
        return
    if model is None or manifest is None:
        raise ConfigError("give --model and --manifest, or --out-of-fold with a run that was trained with --folds.")
    on_cluster = bool(address or os.environ.get("RAY_ADDRESS"))
    if (gpu or cpus) and not on_cluster:
        raise ConfigError(
            "--gpu and --cpus need a cluster. Give --address, or remove them: without a cluster this process uses the "
            "whole machine."
        )
    models = [storage.absolute(uri) for uri in (model, against) if uri is not None]
    task = (models, read_manifest(manifest), split, cancer_definition, swap, engine)
    if on_cluster:
        from derm_ray.runtime import ray_session, run_remote

        with ray_session(address) as session:
            session.require(cpus=cpus or 1, gpus=int(gpu), worker_cpus=cpus or 1)
            evaluation = run_remote(_measure, *task, num_cpus=cpus or 1, num_gpus=int(gpu))
    else:
        evaluation = _measure(*task)
    swapped = ", images swapped" if swap else ""
    _write(evaluation, f"{split}{swapped}, engine {evaluation.provenance['engine']}", out, as_json=as_json)


def _write(evaluation: "Evaluation", what: str, out: str, *, as_json: bool) -> None:
    from derm_ray.evaluation.report import size_text, summary_text, write_evaluation

    json_uri, html_uri = write_evaluation(evaluation, out)
    text = (
        f"{size_text(evaluation)} of {what}\n\n{summary_text(evaluation)}\n\n{json_uri}\n{html_uri}\n{RESEARCH_NOTICE}"
    )
    emit({"evaluation": json_uri, "report": html_uri, **evaluation.to_json()}, text, as_json=as_json)


def _out_of_fold(run: str, definition: CancerDefinition) -> "Evaluation":
    """Read a finished run with folds, and evaluate its predictions in this process."""
    from derm_ray import storage
    from derm_ray.bundle import load_bundle
    from derm_ray.evaluation.out_of_fold import evaluate_out_of_fold
    from derm_ray.evaluation.stored_predictions import OUT_OF_FOLD, read_predictions

    uri = storage.join(run, OUT_OF_FOLD)
    if not storage.exists(uri):
        raise ConfigError(
            f"{run}: no {OUT_OF_FOLD}. Give the folder of a finished run of `derm-ray train --folds`, not its bundle."
        )
    return evaluate_out_of_fold(read_predictions(uri), load_bundle(storage.join(run, "bundle")), definition=definition)


def _measure(
    models: list[str],
    manifest: "Manifest",
    split: Split,
    definition: CancerDefinition,
    swapped: bool,
    engine: str,
) -> "Evaluation":
    """Load a model, and the one that it is compared with, if any, and evaluate it in this process."""
    from derm_ray.bundle import load_bundle
    from derm_ray.evaluation.evaluate import evaluate as run
    from derm_ray.inference.predictor import Predictor

    predictor, *others = (Predictor(load_bundle(uri), engine) for uri in models)
    return run(
        predictor, manifest, split, definition=definition, swapped=swapped, against=others[0] if others else None
    )
