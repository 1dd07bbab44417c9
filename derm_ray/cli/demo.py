"""``derm-ray demo``."""

from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import JsonOption, emit


def demo(
    out: Annotated[str, typer.Option(help="Output folder. An earlier demo there is replaced.")] = "demo",
    as_json: JsonOption = False,
) -> None:
    """Run the whole pipeline on synthetic pairs: train, evaluate, bulk score. Takes minutes on two cores."""
    from derm_ray.evaluation.report import summary_text
    from derm_ray.studies.demo import run_demo

    result = run_demo(out)
    text = (
        f"\n{summary_text(result.evaluation)}\n\n"
        f"scores   {result.scores.out_uri}  ({result.scores.counts.pairs} pairs, Parquet)\n"
        f"report   {result.report_uri}\n"
        f"model    {result.bundle_uri}\n"
        f"{RESEARCH_NOTICE}"
    )
    values = {
        "scores": result.scores.out_uri,
        "report": result.report_uri,
        "bundle": result.bundle_uri,
        "manifest": result.manifest_uri,
    }
    emit(values, text, as_json=as_json)
