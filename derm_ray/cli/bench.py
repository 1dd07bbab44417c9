"""``derm-ray bench``."""

from typing import Annotated

import typer

from derm_ray.cli.options import JsonOption, emit
from derm_ray.observability import format_duration
from derm_ray.studies.benchmark import COMPARISONS


def bench(
    model: Annotated[
        str | None, typer.Option(help="Bundle to measure. Default: an untrained Triple-Net with CAM-BP.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Comparison: {', '.join(COMPARISONS)}. Repeatable. Default: all.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Measure for a shorter time, with 10,000 instead of 100,000 pairs in the large run."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Benchmark this machine's CPUs against reference implementations."""
    from derm_ray.studies.benchmark.bench import run_benchmark

    result = run_benchmark(model, only=only or (), quick=quick)
    lines = [", ".join(f"{name} {value}" for name, value in result.machine.items()), ""]
    lines += [f"{'':<16}{'derm_ray':>10}{'baseline':>10}  {'':<8}{'ratio':>7}  {'95% interval':<15}{'required':<15}"]
    for row in result.rows:
        required = f"{'at most' if row.at_most else 'at least'} {row.threshold:g}"
        lines.append(
            f"{row.name:<16}{row.ours:>10.4g}{row.baseline:>10.4g}  {row.unit:<8}{row.ratio:>7.3f}  "
            f"{f'{row.low:.3f}..{row.high:.3f}':<15}{required:<15}{'' if row.passed else 'FAILED'}".rstrip()
        )
    lines += ["", *(f"{row.name:<16}{row.description}" for row in result.rows)]
    lines += [f"{name:<16}NOT MEASURED: {reason}" for name, reason in result.failures.items()]
    lines += ["", f"measured in {format_duration(result.seconds)}"]
    emit(result.to_json(), "\n".join(lines), as_json=as_json)
    if result.failures:
        raise typer.Exit(1)
