"""``derm-ray serve``."""

import signal
import threading
from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import AddressOption, EngineOption, ModelOption


def serve(
    model: ModelOption,
    host: Annotated[str, typer.Option("--host", help="Loopback only, unless you put a proxy before it.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Of the model.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per replica.")] = False,
    engine: EngineOption = "auto",
    address: AddressOption = None,
) -> None:
    """Serve a model until Ctrl-C, on this machine or on the head node of a cluster."""
    from derm_ray.serving.deployment import endpoint

    with endpoint(model, engine=engine, host=host, port=port, replicas=replicas, use_gpu=gpu, address=address) as url:
        typer.echo(f"listening on {url}\n  curl -F clinical=@clinical.jpg -F dermoscopy=@dermoscopy.jpg {url}/v1/score")
        typer.echo(f"{RESEARCH_NOTICE} Ctrl-C ends it.")
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        typer.echo("stopping")
