"""``derm-ray model``: bundles."""

from dataclasses import asdict
from typing import Annotated

import typer

from derm_ray.cli.options import JsonOption, emit

app = typer.Typer(help="Look at sealed models.", no_args_is_help=True)

BundleArgument = Annotated[str, typer.Argument(help="Bundle folder at any URI.")]


@app.command()
def show(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Print a bundle's model card."""
    from derm_ray import storage
    from derm_ray.bundle import CARD, load_bundle

    model = load_bundle(bundle)
    values = {
        "model_digest": model.model_digest,
        "architecture": asdict(model.network),
        "label_set": model.label_set.name,
        "classes": model.label_set.class_names,
        "preprocessing": model.preprocessing.to_json(),
        "provenance": model.provenance,
    }
    emit(values, storage.read_bytes(storage.join(bundle, CARD)).decode().rstrip(), as_json=as_json)


@app.command()
def verify(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Check every digest of a bundle."""
    from derm_ray.bundle import load_bundle

    digest = load_bundle(bundle).model_digest
    emit({"bundle": bundle, "model_digest": digest, "valid": True}, f"{bundle}: sound, model {digest}", as_json=as_json)
