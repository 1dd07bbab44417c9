"""``derm-ray model``: bundles."""

from dataclasses import asdict
from typing import Annotated

import typer

from derm_ray.cli.options import JsonOption, ManifestOption, emit
from derm_ray.errors import counted

app = typer.Typer(help="Show, verify and quantize model bundles.", no_args_is_help=True)

BundleArgument = Annotated[str, typer.Argument(help="Bundle folder: a path or URI.")]


@app.command()
def show(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Print a bundle's model card."""
    from derm_ray import storage
    from derm_ray.bundle import CARD, load_bundle
    from derm_ray.inference.engines.engine_store import load_engine, stored_engines

    model = load_bundle(bundle)
    values = {
        "model_digest": model.model_digest,
        "run_id": model.run_id,
        "architecture": asdict(model.network),
        "label_set": model.label_set.name,
        "classes": model.label_set.class_names,
        "preprocessing": model.preprocessing.to_json(),
        "provenance": model.provenance,
        "engines": {name: load_engine(model, name).parity for name in stored_engines(model)},
    }
    emit(values, storage.read_bytes(storage.join(bundle, CARD)).decode().rstrip(), as_json=as_json)


@app.command()
def verify(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Check every digest of a bundle and of its engines."""
    from derm_ray.bundle import load_bundle
    from derm_ray.inference.engines.engine_store import load_engine, stored_engines

    model = load_bundle(bundle)
    engines = [load_engine(model, name).identity for name in stored_engines(model)]
    values = {"bundle": bundle, "model_digest": model.model_digest, "engines": engines, "valid": True}
    lines = [f"{bundle}: valid, model {model.model_digest}", *(f"engine {engine}" for engine in engines)]
    emit(values, "\n".join(lines), as_json=as_json)


@app.command()
def quantize(
    bundle: BundleArgument,
    manifest: ManifestOption,
    pairs: Annotated[
        int | None,
        typer.Option(min=500, help="Maximum number of pairs to compare with fp32, drawn at random. Default: all."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing int8 engine.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add an int8 engine for CPUs to a bundle; rejected if its predictions differ too much from fp32."""
    from derm_ray.data.manifest import read_manifest
    from derm_ray.evaluation.quantization import quantize_bundle

    made = quantize_bundle(bundle, read_manifest(manifest), max_pairs=pairs, overwrite=overwrite)
    lines = [
        f"calibrated on {counted(made.calibrated_on, 'pair')} of val, compared with fp32 on "
        f"{counted(made.parity.pairs, 'other')}",
        *made.parity.lines(),
        f"engine {made.engine} added to {bundle}. Use --engine openvino-int8; auto selects it where it is fastest",
    ]
    emit({"bundle": bundle, **made.to_json()}, "\n".join(lines), as_json=as_json)
