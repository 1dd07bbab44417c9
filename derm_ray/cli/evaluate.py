"""``derm-ray evaluate``."""

from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import EngineOption, JsonOption, ManifestOption, ModelOption, emit
from derm_ray.vocabulary import CancerDefinition, Split


def evaluate(
    model: ModelOption,
    manifest: ManifestOption,
    out: Annotated[str, typer.Option("--out", help="Folder for evaluation.json and report.html.")],
    split: Annotated[Split, typer.Option("--split", help="Part of the manifest.")] = Split.TEST,
    cancer_definition: Annotated[
        CancerDefinition, typer.Option("--cancer-definition", help="isic counts carcinoma in situ as cancer.")
    ] = CancerDefinition.PAPER,
    swap: Annotated[bool, typer.Option("--swap", help="Show the network each image in the other's place.")] = False,
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a model: clinical, dermoscopy and cross predictions with 95% intervals, as JSON and HTML."""
    from derm_ray.bundle import load_bundle
    from derm_ray.data.manifest import read_manifest
    from derm_ray.evaluation.evaluate import evaluate as run
    from derm_ray.evaluation.report import summary_text, write_evaluation
    from derm_ray.inference.predictor import Predictor

    predictor = Predictor(load_bundle(model), engine)
    evaluation = run(predictor, read_manifest(manifest), split, definition=cancer_definition, swapped=swap)
    json_uri, html_uri = write_evaluation(evaluation, out)
    exchanged = ", images exchanged" if swap else ""
    text = (
        f"{evaluation.pairs} pairs of {split}{exchanged}, engine {predictor.engine.name}\n\n"
        f"{summary_text(evaluation)}\n\n{json_uri}\n{html_uri}\n{RESEARCH_NOTICE}"
    )
    emit({"evaluation": json_uri, "report": html_uri, **evaluation.to_json()}, text, as_json=as_json)
