"""``derm-ray train``."""

from functools import partial
from typing import Annotated

import typer

from derm_ray.cli import stopping
from derm_ray.cli.options import (
    AddressOption,
    InitWeightsOption,
    JsonOption,
    ManifestOption,
    PresetOption,
    RecipeOption,
    SettingsOption,
    emit,
    warn,
)


@stopping.resumable()
def train(
    manifest: ManifestOption,
    out: Annotated[str, typer.Option(help="Folder for runs: a path or URI.")],
    name: Annotated[str, typer.Option(help="Name of the run, a folder in --out. The same name resumes the run.")],
    preset: PresetOption = None,
    recipe: RecipeOption = None,
    settings: SettingsOption = None,
    init_weights: InitWeightsOption = None,
    cam: Annotated[
        str | None, typer.Option(help="For head=cam_bp: bundle of the CAM network, trained with head=cam.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Bundle of the same classes to distill: its predictions are learned too.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="Folder for the feature cache: activations of the frozen layers.")
    ] = None,
    cache_limit: Annotated[float, typer.Option(metavar="GIB", min=0, help="Size limit of the feature cache.")] = 50.0,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2, help="Split train and val into so many folds, train one network for each, and seal an ensemble."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel workers.")] = 1,
    max_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Elastic training: up to this many workers. Default: --workers."),
    ] = None,
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(min=1, help="CPUs per worker. Default: an equal share; 1 on a cluster."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per worker.")] = False,
    max_failures: Annotated[int, typer.Option(min=0, help="Worker failures to tolerate.")] = 3,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="mlflow:URI", help="MLflow server or database that recipe, metrics and bundle are sent to as well."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete an existing run of that name first.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a network on lesion pairs. The same --name resumes an interrupted run."""
    from derm_ray.training.recipe import make_recipe

    if preset is None and recipe is None and not gpu:
        warn(["the default preset, paper, takes very long on CPUs. Give --preset light, or --gpu."])
    config = make_recipe(preset, recipe, settings or [])
    from derm_ray.data.manifest import read_manifest
    from derm_ray.evaluation.metrics import number_text
    from derm_ray.training.run.driver import train as run
    from derm_ray.training.run.folds import train_folds

    result = (run if folds is None else partial(train_folds, folds=folds))(
        config,
        read_manifest(manifest),
        out,
        name,
        init_weights=init_weights,
        cam=cam,
        teacher=teacher,
        cache=cache,
        cache_limit_gib=cache_limit,
        workers=workers,
        max_workers=max_workers,
        cpus_per_worker=cpus_per_worker,
        use_gpu=gpu,
        max_failures=max_failures,
        track=track,
        overwrite=overwrite,
        address=address,
    )
    score = result.metrics.get(f"{result.kind}/{config.monitor}", float("nan"))
    values = {
        "run": result.run_uri,
        "run_id": result.run_id,
        "bundle": result.bundle_uri,
        "model_digest": result.model_digest,
        "best_epoch": result.best_epoch,
        "metrics": result.metrics,
    }
    judged = f"epoch {result.best_epoch} of {config.epochs} (val" if folds is None else f"{folds} folds (out-of-fold"
    found = f"{result.kind} {config.monitor} {number_text(score)}"
    text = f"{judged} {found})\nrun {result.run_id}\nbundle {result.bundle_uri}"
    emit(values, text, as_json=as_json)
