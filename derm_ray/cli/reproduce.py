"""``derm-ray reproduce``."""

from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli import stopping
from derm_ray.cli.options import AddressOption, JsonOption, LabelSetOption, ManifestOption, emit
from derm_ray.studies.reproduction import PRESETS


def reproduce(
    manifest: ManifestOption,
    out: Annotated[str, typer.Option(help="Study folder: a path or URI. The same command resumes it.")],
    preset: Annotated[str, typer.Option(help=f"Preset: {PRESETS}.")] = "milk10k-cpu",
    label_set: LabelSetOption = "paper15",
    seeds: Annotated[str, typer.Option(help="Random seeds, separated by commas.")] = "0",
    rows: Annotated[
        list[str] | None,
        typer.Option(
            "--row",
            metavar="NAME",
            help="Train only this row, such as triple-cam_bp. Repeatable. An unknown name lists all.",
        ),
    ] = None,
    init_weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[TRUNK=]URI",
            help="ImageNet weights (safetensors file) of a trunk; without TRUNK= of vgg16. Repeatable. "
            "Default: torchvision's download.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Data-parallel workers per trial.")] = 1,
    cpus_per_worker: Annotated[int, typer.Option(min=1, help="CPUs per worker.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per worker.")] = False,
    cache_limit: Annotated[float, typer.Option(metavar="GIB", min=0, help="Size limit of the feature cache.")] = 50.0,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Show lesion images in the report.")] = True,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Reproduce the paper: train every row of its tables and test its claims on the test split.

    The exit code is 1 if a trial failed. The same command repeats failed trials.
    """
    from derm_ray.data.manifest import read_manifest
    from derm_ray.studies.reproduction.report import main_table
    from derm_ray.studies.reproduction.study import parse_seeds, parse_weights
    from derm_ray.studies.reproduction.study import reproduce as run
    from derm_ray.studies.reproduction.trials import Resources

    with stopping.resumable_at_once():
        study = run(
            read_manifest(manifest),
            out,
            preset=preset,
            label_set_name=label_set,
            seeds=parse_seeds(seeds),
            only=rows or (),
            init_weights=parse_weights(init_weights or []),
            resources=Resources(workers, cpus_per_worker, gpu, cache_limit),
            images=images,
            address=address,
        )
    table = main_table(study.results)
    width = max((len(title) for title, _ in table), default=0)
    lines = [f"{'cross, test split':<{width}}  accuracy  balanced  cancer AUROC  melanoma AUROC"]
    lines += [f"{title:<{width}}  {a:>8}  {b:>8}  {c:>12}  {m:>14}" for title, (a, b, c, m) in table]
    lines += [
        f"{row.name}: {problem}" for row in study.results.rows for problem in dict.fromkeys(row.problems.values())
    ]
    lines += ["", *(f"{v.verdict:<14}  {v.claim.text}" for v in study.results.verdicts), ""]
    lines += [study.json_uri, study.csv_uri, study.html_uri, RESEARCH_NOTICE]
    values = {"results": study.json_uri, "csv": study.csv_uri, "report": study.html_uri, **study.results.to_json()}
    emit(values, "\n".join(lines), as_json=as_json)
    if any(problem.startswith("failed") for row in study.results.rows for problem in row.problems.values()):
        raise typer.Exit(1)
