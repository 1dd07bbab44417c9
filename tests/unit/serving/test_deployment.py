import pytest
import torch

from derm_ray.inference.engines.selection import resolve_engine_of
from derm_ray.serving import deployment
from derm_ray.serving.arguments import ServeArguments


@pytest.mark.parametrize(("engine", "gpu"), [("auto", True), ("auto", False), ("compiled", True)])
def test_an_engine_is_chosen_where_replicas_run(
    engine: str, gpu: bool, bundle_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Serve builds an application on the head, which may have no GPU, nor torch for one."""
    asked = []

    def run_remote(function: object, *args: object, **options: object) -> str:
        asked.append((function, args, options["num_gpus"]))
        return "torch-bf16"

    monkeypatch.setattr(deployment.runtime, "has_several_nodes", lambda: True)
    monkeypatch.setattr(deployment.runtime, "run_remote", run_remote)
    args = ServeArguments(model=bundle_uri, engine=engine, gpu=gpu, insecure=True)
    application = deployment.build(args, None)
    assert asked == [(resolve_engine_of, (bundle_uri, engine, torch.device("cuda" if gpu else "cpu")), int(gpu))]
    assert application._bound_deployment.init_args[0].engine == "torch-bf16"
