"""``raft …``: the application. Its commands lie in ``flows.cli.commands``, one module a subject.

Heavy libraries are imported inside the commands that need them.
"""

import sys
from importlib import metadata
from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands import (
    alignment,
    configuration,
    deployment,
    exports,
    gc,
    ledger,
    lineage,
    machine,
    promotion,
    runs,
    sync,
)
from flows.process.environment import guard_secrets, set_defaults

app = typer.Typer(
    help="RAFT: sample, score, validate, select, fine-tune, evaluate, repeat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(alignment.app)
app.add_typer(runs.app)
app.add_typer(promotion.app)
app.add_typer(ledger.app, name="ledger")
app.add_typer(sync.app)
app.add_typer(lineage.app, name="lineage")
app.add_typer(exports.app, name="export")
app.add_typer(configuration.app, name="config")
app.add_typer(machine.app)
app.add_typer(deployment.app)
app.add_typer(gc.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raft {metadata.version('raft-mlops')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """RAFT: sample, score, validate, select, fine-tune, evaluate, repeat."""


def main() -> None:
    """Entry point of the ``raft`` command."""
    set_defaults()
    guard_secrets()
    exits.end_on_sigterm()
    sys.exit(exits.run_command(app, sys.argv[1:]))
