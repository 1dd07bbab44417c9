"""``derm-ray serve``."""

import queue
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from derm_ray import RESEARCH_NOTICE
from derm_ray.cli import stopping
from derm_ray.cli.options import AddressOption, EngineOption
from derm_ray.errors import ConfigError, DermRayError

if TYPE_CHECKING:
    from derm_ray.serving.endpoint import Endpoint


def serve(
    context: typer.Context,
    model: Annotated[str | None, typer.Option(help="Bundle folder: a path or URI.")] = None,
    config: Annotated[
        str | None, typer.Option(help="Serve config file, instead of the other options; see cluster/serve.")
    ] = None,
    host: Annotated[str, typer.Option(help="Bind address; anything but loopback requires --tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8000,
    replicas: Annotated[int, typer.Option(min=1, help="Replicas of the model.")] = 1,
    max_replicas: Annotated[
        int | None, typer.Option(min=1, help="Upper limit for autoscaling. Default: --replicas.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu/--no-gpu", help="One GPU per replica.")] = False,
    tokens: Annotated[
        str | None,
        typer.Option(help="File with lines id:sha256 (see `derm-ray token`). Default: the text in DERM_RAY_TOKENS."),
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Accept anyone who can reach the port.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(min=0.01, help="Requests per second and token, in bursts of up to 5 s. Default: no limit."),
    ] = None,
    engine: EngineOption = "auto",
    address: AddressOption = None,
) -> None:
    """Serve a model over HTTP until Ctrl-C, on this machine or on the head node of a cluster.

    SIGHUP reloads the model folder, or the config file, without downtime. With --config on a cluster the command
    returns when the endpoint is ready; the endpoint keeps running.
    """
    from derm_ray import runtime
    from derm_ray.serving.arguments import ServeArguments
    from derm_ray.serving.endpoint import configured_endpoint, endpoint
    from derm_ray.serving.tokens import find_tokens

    if config is not None:
        _refuse_others(context, {"config", "address"})
        starting = configured_endpoint(config, address)
        if runtime.cluster_address(address) is not None:
            with starting as served:
                typer.echo(f"listening on {served.url}: open it in a browser.")
            return
    elif model is None:
        raise ConfigError("give either --model (a bundle) or --config (a Serve config file).")
    elif max_replicas is not None and max_replicas < replicas:
        raise ConfigError(f"--max-replicas {max_replicas} is below --replicas {replicas}.")
    else:
        args = ServeArguments(
            model=model,
            engine=engine,
            gpu=gpu,
            replicas=replicas,
            max_replicas=max_replicas,
            tokens=tokens,
            insecure=insecure,
            rate=rate,
        )
        starting = endpoint(args, host=host, port=port, address=address)
    with stopping.clean(), starting as served:
        typer.echo(f"listening on {served.url}: open it in a browser{'.' if config else ', or'}")
        if not config:
            bearer = "-H 'Authorization: Bearer TOKEN' " if find_tokens(tokens) else ""
            images = "-F clinical=@clinical.jpg -F dermoscopy=@dermoscopy.jpg"
            typer.echo(f"  curl {bearer}{images} {served.url}/v1/score")
        _until_stopped(served)


def _until_stopped(served: "Endpoint") -> None:
    """Wait for Ctrl-C or SIGTERM, also during an update; update at each SIGHUP."""
    typer.echo(f"{RESEARCH_NOTICE} Press Ctrl-C to stop.")
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    updating = False

    def heard(number: int, _: object) -> None:
        if updating and number != signal.SIGHUP:
            raise KeyboardInterrupt
        signals.put(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, heard)
    try:
        while _next(signals) == signal.SIGHUP:
            try:
                updating = True
                served.update()
            except DermRayError as error:
                typer.echo(f"the update failed; still serving the previous model: {error}", err=True)
            else:
                typer.echo("updated")
            finally:
                updating = False
    except KeyboardInterrupt:
        typer.echo("update canceled")
    typer.echo("stopping")


def _next(signals: queue.SimpleQueue[int]) -> int:
    """Return the next signal; one that comes just before a wait begins would not end it, so waits are short."""
    while True:
        with suppress(queue.Empty):
            return signals.get(timeout=0.5)


def _refuse_others(context: typer.Context, allowed: set[str]) -> None:
    """Refuse options that a config file holds instead."""
    sources = {name: context.get_parameter_source(name) for name in context.params.keys() - allowed}
    given = sorted(name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE")
    if others := [f"--{name.replace('_', '-')}" for name in given]:
        raise ConfigError(f"{', '.join(others)} cannot be used with --config. Set it in the file.")


def token(
    name: Annotated[str, typer.Argument(metavar="ID", help="Name of the token's owner, as in the access log.")],
) -> None:
    """Create a bearer token: the line for the token file on standard output, the token itself on standard error."""
    from derm_ray.serving.tokens import new_token

    secret, line = new_token(name)
    typer.echo(f"token, shown once: {secret}", err=True)
    typer.echo(line)
