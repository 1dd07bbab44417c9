"""``derm-ray score`` and ``derm-ray verify``."""

from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli import stopping
from derm_ray.cli.options import (
    AddressOption,
    ClinicalOption,
    DermoscopyOption,
    EngineOption,
    JsonOption,
    ModelOption,
    emit,
)

if TYPE_CHECKING:
    from derm_ray.scoring.reconcile import Reconciliation


@stopping.resumable()
def score(
    model: ModelOption,
    source: Annotated[
        str, typer.Option("--input", help="Manifest, folder, .tar, .tar.gz, .zip or Parquet with images.")
    ],
    out: Annotated[str, typer.Option("--out", help="Folder for the scores, at any URI.")],
    clinical: ClinicalOption = None,
    dermoscopy: DermoscopyOption = None,
    output_format: Annotated[str, typer.Option("--format", help="parquet, csv or jsonl.")] = "parquet",
    engine: EngineOption = "auto",
    per_input_predictions: Annotated[
        bool, typer.Option("--per-input-predictions", help="Also write clinical_*, dermoscopy_*, cross_*.")
    ] = False,
    saliency: Annotated[bool, typer.Option("--saliency", help="Also write overlays of where the model looks.")] = False,
    shard_size: Annotated[int, typer.Option("--shard-size", min=1, help="Pairs per part.")] = 256,
    replicas: Annotated[
        int | None,
        typer.Option("--replicas", min=1, help="Actors that score; default: one here, what a cluster holds."),
    ] = None,
    decoders: Annotated[
        int, typer.Option("--decoders", min=0, help="Actors of one CPU each that decode for them, on any node.")
    ] = 0,
    gpus: Annotated[
        float, typer.Option("--gpus-per-replica", min=0, help="0 scores on CPUs; 0.5 puts two on one GPU.")
    ] = 0.0,
    max_error_rate: Annotated[
        float,
        typer.Option(
            "--max-error-rate", min=0, max=1, help="Stop above this share of errors: from 100 pairs on, and at the end."
        ),
    ] = 0.5,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Also score parts again that hold errors of storage, or crashes.")
    ] = False,
    allow_prefix: Annotated[
        list[str] | None, typer.Option("--allow-prefix", help="Folder that images may lie in; then no other may.")
    ] = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every pair of a manifest or archive; the same command resumes a run that was stopped."""
    from derm_ray.data.archives.pairing import PairingRule
    from derm_ray.data.inputs import open_input
    from derm_ray.scoring.pipeline import ScoringOptions
    from derm_ray.scoring.pipeline import score as run

    rule = PairingRule(clinical or (), dermoscopy or ()) if clinical or dermoscopy else None
    result = run(
        model,
        open_input(source, rule),
        out,
        engine=engine,
        per_input_predictions=per_input_predictions,
        saliency=saliency,
        output_format=output_format,
        shard_size=shard_size,
        options=ScoringOptions(
            replicas=replicas,
            decoders=decoders,
            gpus_per_replica=gpus,
            max_error_rate=max_error_rate,
            retry_errors=retry_errors,
            allow_prefixes=allow_prefix or (),
            address=address,
        ),
    )
    lines = _lines(result.counts)
    if result.resumed:
        lines.append(f"{result.resumed} of {len(result.counts.parts)} parts were already there")
    lines += [f"run {result.run_id}"] if result.run_id else []
    lines += [f"scores {result.out_uri}", f"report {result.out_uri}/_report.html", RESEARCH_NOTICE]
    values: dict[str, object] = {"resumed_parts": result.resumed, "seconds": result.seconds}
    values |= {"out": result.out_uri, "run_id": result.run_id, **result.counts.counts()}
    emit(values, "\n".join(lines), as_json=as_json)


def verify(
    out: Annotated[str, typer.Argument(help="Folder of a finished scoring run, at any URI.")],
    as_json: JsonOption = False,
) -> None:
    """Check a scored output again: every pair once, nothing changed since the run ended."""
    from derm_ray.scoring.reconcile import verify as check

    counts = check(out)
    lines = [*_lines(counts), f"{out}: sound, {len(counts.parts)} part{'s' * (len(counts.parts) != 1)}"]
    emit({"out": out, "valid": True, **counts.counts()}, "\n".join(lines), as_json=as_json)


def _lines(counts: "Reconciliation") -> list[str]:
    return [
        f"{counts.pairs:,} pairs: {counts.scored:,} scored, {counts.errors:,} errors, each exactly once",
        *(f"  {count:>8,}  {code}" for code, count in sorted(counts.error_codes.items())),
    ]
