"""``derm-ray serve``."""

import signal
import threading
from typing import Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli.options import AddressOption, EngineOption, ModelOption


def serve(
    model: ModelOption,
    host: Annotated[str, typer.Option("--host", help="Others than loopback need --tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8000,
    replicas: Annotated[int, typer.Option("--replicas", min=1, help="Of the model.")] = 1,
    max_replicas: Annotated[
        int | None, typer.Option("--max-replicas", min=1, help="As many under load; default --replicas.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per replica.")] = False,
    tokens: Annotated[
        str | None,
        typer.Option(
            "--tokens", help="File of lines id:sha256 (see `derm-ray token`); default DERM_RAY_TOKENS holds them."
        ),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let anybody call who reaches the port.")] = False,
    engine: EngineOption = "auto",
    address: AddressOption = None,
) -> None:
    """Serve a model until Ctrl-C, on this machine or on the head node of a cluster."""
    from derm_ray.serving.deployment import endpoint
    from derm_ray.serving.tokens import find_tokens

    known = find_tokens(tokens)
    with endpoint(
        model,
        engine=engine,
        host=host,
        port=port,
        replicas=replicas,
        max_replicas=max_replicas,
        use_gpu=gpu,
        address=address,
        tokens=known,
        insecure=insecure,
    ) as url:
        bearer = "-H 'Authorization: Bearer TOKEN' " if known else ""
        typer.echo(
            f"listening on {url}\n  curl {bearer}-F clinical=@clinical.jpg -F dermoscopy=@dermoscopy.jpg {url}/v1/score"
        )
        typer.echo(f"{RESEARCH_NOTICE} Ctrl-C ends it.")
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        typer.echo("stopping")


def token(
    name: Annotated[str, typer.Argument(metavar="ID", help="Who gets it; the access log shows it.")],
) -> None:
    """Make a bearer token: standard output gets the line for the server's file, standard error the token itself."""
    from derm_ray.serving.tokens import new_token

    secret, line = new_token(name)
    typer.echo(f"token, shown once: {secret}", err=True)
    typer.echo(line)
