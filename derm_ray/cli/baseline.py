"""``derm-ray baseline``."""

from typing import Annotated

import typer

from derm_ray.cli.options import InitWeightsOption, JsonOption, LabelSetOption, ManifestOption, emit


def baseline(
    manifest: ManifestOption,
    label_set: LabelSetOption = "paper15",
    init_weights: InitWeightsOption = None,
    size: Annotated[int, typer.Option(min=32, help="Side of the input in pixels.")] = 128,
    as_json: JsonOption = False,
) -> None:
    """Fit a logistic regression on frozen VGG-16 features, as a baseline for trained networks."""
    from derm_ray.data.manifest import read_manifest
    from derm_ray.domain import label_set as find
    from derm_ray.evaluation.metrics import metric_names
    from derm_ray.studies.baseline import run_baseline

    labels = find(label_set)
    result = run_baseline(read_manifest(manifest), labels, init_weights=init_weights, size=size)
    shown = metric_names(task.name for task in labels.tasks())
    width = max(map(len, shown))
    lines = [f"{'test split':<{width}}" + "".join(f"{kind!s:>12}" for kind in result.kinds)]
    lines += [f"{name:<{width}}" + "".join(f"{v[name]:>12.3f}" for v in result.kinds.values()) for name in shown]
    values = {str(kind): {name: named[name] for name in shown} for kind, named in result.kinds.items()}
    strengths = {str(kind): strength for kind, strength in result.strengths.items()}
    emit({"test": values, "C": strengths}, "\n".join(lines), as_json=as_json)
