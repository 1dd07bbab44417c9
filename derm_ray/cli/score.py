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
from derm_ray.errors import counted

if TYPE_CHECKING:
    from derm_ray.scoring.reconcile import Reconciliation


@stopping.resumable()
def score(
    model: ModelOption,
    source: Annotated[
        str, typer.Option("--input", help="Manifest, folder, .tar, .tar.gz, .zip, or Parquet file with images.")
    ],
    out: Annotated[str, typer.Option(help="Output folder: a path or URI.")],
    clinical: ClinicalOption = None,
    dermoscopy: DermoscopyOption = None,
    output_format: Annotated[str, typer.Option("--format", help="Output format: parquet, csv or jsonl.")] = "parquet",
    engine: EngineOption = "auto",
    per_input_predictions: Annotated[
        bool,
        typer.Option(
            "--per-input-predictions", help="Also write the probabilities from each image alone and from both."
        ),
    ] = False,
    saliency: Annotated[bool, typer.Option("--saliency", help="Also write saliency overlays (CAM-BP models).")] = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Pairs per output part.")] = 256,
    replicas: Annotated[
        int | None,
        typer.Option(min=1, help="Scoring actors. Default: one locally; as many as fit on a cluster."),
    ] = None,
    decoders: Annotated[
        int,
        typer.Option(min=0, help="Extra actors that read and decode images, one CPU each, on any node."),
    ] = 0,
    gpus: Annotated[
        float, typer.Option("--gpus-per-replica", min=0, help="GPUs per scoring actor; 0 uses CPUs, 0.5 shares a GPU.")
    ] = 0.0,
    max_error_rate: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Stop above this share of errors; checked from 100 pairs on, and at the end.",
        ),
    ] = 0.5,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Also rescore parts with storage errors or crashes.")
    ] = False,
    allow_prefix: Annotated[
        list[str] | None, typer.Option(metavar="URI", help="Allow images in this folder only. Repeatable.")
    ] = None,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every pair of a manifest or archive. The same command resumes an interrupted run."""
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
        lines.append(f"{result.resumed} of {counted(len(result.counts.parts), 'part')} existed already")
    lines += [f"run {result.run_id}"]
    lines += [f"scores {result.out_uri}", f"report {result.out_uri}/_report.html", RESEARCH_NOTICE]
    values: dict[str, object] = {"resumed_parts": result.resumed, "seconds": result.seconds}
    values |= {"out": result.out_uri, "run_id": result.run_id, **result.counts.counts()}
    emit(values, "\n".join(lines), as_json=as_json)


def verify(
    out: Annotated[str, typer.Argument(help="Output folder of a finished scoring run: a path or URI.")],
    as_json: JsonOption = False,
) -> None:
    """Verify a finished scoring run: every pair scored exactly once, and no file changed since."""
    from derm_ray.scoring.reconcile import verify as check

    counts = check(out)
    lines = [*_lines(counts), f"{out}: valid, {counted(len(counts.parts), 'part')}"]
    emit({"out": out, "valid": True, **counts.counts()}, "\n".join(lines), as_json=as_json)


def _lines(counts: "Reconciliation") -> list[str]:
    return [
        f"{counted(counts.pairs, 'pair')}: {counts.scored:,} scored, {counted(counts.errors, 'error')}, each exactly "
        "once",
        *(f"  {count:>8,}  {code}" for code, count in sorted(counts.error_codes.items())),
    ]
