"""``derm-ray score``."""

from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import AddressOption, EngineOption, JsonOption, ModelOption, emit


def score(
    model: ModelOption,
    source: Annotated[str, typer.Option("--input", help="Manifest (Parquet, CSV or JSONL) at any URI.")],
    out: Annotated[str, typer.Option("--out", help="Folder for the scores, at any URI.")],
    engine: EngineOption = "auto",
    branches: Annotated[bool, typer.Option("--branches", help="Also write clinical_*, dermoscopy_*, cross_*.")] = False,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Pairs per Parquet part.")] = 256,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Actors that score.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per replica.")] = False,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every pair of a manifest to Parquet; the same command resumes a run that was stopped."""
    from derm_ray.data.manifest import read_manifest
    from derm_ray.scoring.pipeline import score as run

    result = run(
        model,
        read_manifest(source),
        out,
        engine=engine,
        branches=branches,
        shard_size=shard_size,
        replicas=replicas,
        use_gpu=gpu,
        address=address,
    )
    counts = result.counts
    lines = [f"{counts.pairs} pairs: {counts.scored} scored, {counts.errors} errors, each exactly once"]
    lines += [f"  {count:>6}  {code}" for code, count in sorted(counts.error_codes.items())]
    if result.resumed:
        lines.append(f"{result.resumed} of {len(counts.parts)} parts were already there")
    lines += [f"scores {result.out_uri}", RESEARCH_NOTICE]
    values = {"out": result.out_uri, "resumed_parts": result.resumed, "seconds": result.seconds, **counts.to_json()}
    emit(values, "\n".join(lines), as_json=as_json)
