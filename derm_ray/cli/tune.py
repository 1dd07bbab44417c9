"""``derm-ray tune``."""

from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
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
)


def tune(
    manifest: ManifestOption,
    space: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="YAML file of settings to search: a list of values, or {min: LOW, max: HIGH, log: true}.",
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for searches: a path or URI.")],
    name: Annotated[str, typer.Option(help="Name of the search, a folder in --out. The same command resumes it.")],
    trials: Annotated[int, typer.Option(min=1, help="Recipes to try.")] = 20,
    preset: PresetOption = None,
    recipe: RecipeOption = None,
    settings: SettingsOption = None,
    init_weights: InitWeightsOption = None,
    cache: Annotated[
        str | None, typer.Option(help="Folder for the feature cache: activations of the frozen layers.")
    ] = None,
    cache_limit: Annotated[float, typer.Option(metavar="GIB", min=0, help="Size limit of the feature cache.")] = 50.0,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel workers per trial.")] = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPUs per worker.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per worker.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for a recipe: train many, stop the worse ones early, and write the best for train --recipe.

    The same command resumes a search and repeats failed trials.
    """
    from derm_ray.data.manifest import read_manifest
    from derm_ray.studies.reproduction.trials import Resources
    from derm_ray.studies.tuning.report import table_text
    from derm_ray.studies.tuning.space import read_space
    from derm_ray.studies.tuning.study import search
    from derm_ray.training.recipe import make_recipe

    config = make_recipe(preset, recipe, settings or [])
    drawn = read_space(space, config)
    with stopping.resumable_at_once():
        found = search(
            config,
            drawn,
            read_manifest(manifest),
            out,
            name,
            trials=trials,
            init_weights=init_weights,
            cache=cache,
            resources=Resources(workers, cpus_per_worker, gpu, cache_limit),
            address=address,
        )
    values = {
        "best": found.best_uri,
        "table": found.table_uri,
        "plot": found.plot_uri,
        "trials": [row.to_json() for row in found.trials],
    }
    lines = [table_text(found.trials, config.monitor), "", found.table_uri, found.plot_uri]
    emit(values, "\n".join([*lines, f"best recipe {found.best_uri}", RESEARCH_NOTICE]), as_json=as_json)
