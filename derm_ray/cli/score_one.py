"""``derm-ray score-one``."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray.cli.options import EngineOption, JsonOption, emit
from derm_ray.domain import Modality
from derm_ray.errors import ConfigError, ServingError

if TYPE_CHECKING:
    from derm_ray.serving.schemas import Score

TOKEN_VARIABLE = "DERM_RAY_TOKEN"  # noqa: S105
SHOWN = 5


def score_one(
    clinical: Annotated[str | None, typer.Option(help="Clinical photo: a path or URI.")] = None,
    dermoscopy: Annotated[str | None, typer.Option(help="Dermoscopy image: a path or URI.")] = None,
    url: Annotated[
        str | None,
        typer.Option(help=f"URL of an endpoint; its token is read from {TOKEN_VARIABLE}."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Bundle folder, to score without an endpoint.")] = None,
    saliency: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Also write saliency overlays (CAM-BP models).")
    ] = None,
    patient: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Patient data that the model uses, such as age=45. Repeatable."),
    ] = None,
    engine: EngineOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score one lesion, through an endpoint or with a local model."""
    from derm_ray import storage
    from derm_ray.serving.client import overlays

    if (url is None) == (model is None):
        raise ConfigError("give either --url (an endpoint) or --model (a bundle).")
    if url is not None and engine != "auto":
        raise ConfigError("--engine works with --model only: an endpoint has its own engine. Remove --engine.")
    images = {modality: uri for modality, uri in zip(Modality, (clinical, dermoscopy), strict=True) if uri is not None}
    if not images:
        raise ConfigError("no image given. Give --clinical, --dermoscopy, or both (recommended).")
    wanted, values = saliency is not None, _parse(patient or [])
    score = (
        _ask(url, images, values, saliency=wanted)
        if url
        else _here(str(model), engine, images, values, saliency=wanted)
    )
    written = {}
    if saliency is not None:
        for modality, png in overlays(score).items():
            written[str(modality)] = storage.join(saliency, f"{modality}.png")
            storage.write_bytes(written[str(modality)], png)
    shown = score.model_dump(mode="json", exclude={"saliency"}) | {"saliency": written}
    emit(shown, _text(score, written), as_json=as_json)


def _parse(assignments: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or key.strip() in values:
            problem = f"{key.strip()!r} is given twice" if equals else "expected KEY=VALUE, such as age=45"
            raise ConfigError(f"--patient {assignment!r}: {problem}.")
        values[key.strip()] = value.strip()
    return values


def _ask(url: str, images: Mapping[Modality, str], patient: Mapping[str, str], *, saliency: bool) -> "Score":
    from derm_ray import storage
    from derm_ray.serving.client import Client

    data = {modality: storage.read_bytes(uri) for modality, uri in images.items()}
    try:
        with Client(url, os.environ.get(TOKEN_VARIABLE), token_name=TOKEN_VARIABLE) as client:
            both = (data.get(Modality.CLINICAL), data.get(Modality.DERMOSCOPY))
            return client.score(*both, saliency=saliency, patient=patient)
    except ServingError as error:  # an endpoint knows an image by its modality only
        message = str(error)
        for modality, uri in images.items():
            message = message.replace(f"{modality} image:", f"{modality} image {uri}:")
        raise ServingError(message) from error


def _here(
    model: str, engine: str, images: Mapping[Modality, str], patient: Mapping[str, str], *, saliency: bool
) -> "Score":
    from derm_ray.bundle import load_bundle
    from derm_ray.data.archives.reader import ImageReader
    from derm_ray.data.patient import check_patient
    from derm_ray.data.preprocessing import load_image, to_pair
    from derm_ray.inference.predictor import Predictor
    from derm_ray.inference.saliency import SaliencyMapper, overlay_files
    from derm_ray.serving.schemas import to_score

    bundle = load_bundle(model)
    values = check_patient(bundle.patient, patient)
    mapper = SaliencyMapper(bundle) if saliency else None
    with ImageReader(images.values()) as reader:
        pixels = to_pair({m: [load_image(uri, bundle.preprocessing, reader)] for m, uri in images.items()}, values)
    prediction = Predictor(bundle, engine).predict([pixels])[0]
    return to_score(prediction, bundle, pixels.flags, overlay_files(mapper, pixels) if mapper else None)


def _text(score: "Score", written: dict[str, str]) -> str:
    ranked = sorted(score.probabilities.items(), key=lambda item: -item[1])[:SHOWN]
    width = max(len(name) for name, _ in ranked)
    lines = [f"{name:<{width}}  {probability:6.1%}" for name, probability in ranked]
    if score.diagnosis != ranked[0][0]:
        lines.append(f"diagnosis {score.diagnosis}: this model weighs classes; see its card")
    lines += ["", *(f"{task} probability {p:.4f}" for task, p in score.task_probabilities.items())]
    lines += [f"{name}: {'above' if above else 'below'} threshold" for name, above in score.above_threshold.items()]
    lines += [f"images used: {score.modality}" + (f", {', '.join(score.flags)}" if score.flags else "")]
    lines += [f"overlay {uri}" for uri in written.values()]
    return "\n".join([*lines, f"model {score.model_digest[:12]}", score.notice])
