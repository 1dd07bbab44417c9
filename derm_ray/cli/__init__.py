"""The ``derm-ray`` command. Heavy imports stay inside the commands, so that ``--help`` is quick."""

import logging
import os
import sys

import typer

from derm_ray import RESEARCH_NOTICE, __version__
from derm_ray.cli import (
    baseline,
    bench,
    cluster,
    data,
    demo,
    doctor,
    evaluate,
    jobs,
    model,
    reproduce,
    score,
    score_one,
    serve,
    stopping,
    submit,
    train,
    tune,
)
from derm_ray.cli.options import printable
from derm_ray.errors import DermRayError
from derm_ray.observability import LOG_FORMAT_VARIABLE, configure_logging
from derm_ray.submission.version import VERSION_VARIABLE, check_version

INTERRUPTED = 130
"""Typer's exit code after a KeyboardInterrupt."""

app = typer.Typer(
    name="derm-ray",
    help=f"Paired clinical and dermoscopy skin-lesion classification on Ray. {RESEARCH_NOTICE}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
app.add_typer(model.app, name="model")
app.add_typer(jobs.app, name="jobs")
app.add_typer(cluster.app, name="cluster")
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("evaluate")(evaluate.evaluate)
app.command("score")(score.score)
app.command("verify")(score.verify)
app.command("score-one")(score_one.score_one)
app.command("tune")(tune.tune)
app.command("reproduce")(reproduce.reproduce)
app.command("baseline")(baseline.baseline)
app.command("bench")(bench.bench)
app.command("serve")(serve.serve)
app.command("token")(serve.token)
app.command("submit", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(submit.submit)
app.command("doctor")(doctor.doctor)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    _: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
    log_format: str | None = typer.Option(
        None,
        "--log-format",
        help="Log format: text, or json (one object per line on standard error).",
        show_default=False,
    ),
) -> None:
    configure_logging(log_format=log_format)


def main() -> None:
    """Run the command; errors derm_ray raises on purpose become one message and their exit code."""
    # Ray prints notices of dead workers to standard output, where --json promises one line; it reads this at import.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")
    stopping.listen()
    try:
        check_version(os.environ.get(VERSION_VARIABLE))
        app()
    except DermRayError as error:
        if os.environ.get(LOG_FORMAT_VARIABLE) == "json":
            extra = {"error": type(error).__name__, **({"run_id": error.run_id} if error.run_id else {})}
            logging.getLogger("derm_ray").error("%s", error, extra=extra)
        else:
            typer.echo(f"error: {printable(str(error))}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        sys.exit(stopping.exit_code() if end.code == INTERRUPTED else end.code)
