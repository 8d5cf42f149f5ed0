"""The application ``raft``, made of the commands in ``flows.cli.commands``, which has one module per subject.

Heavy libraries are imported inside the commands that need them, so that help and errors come at once.
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
from flows.cli.commands.shell import ALIGN, AUDIT, PROMOTE, flag
from flows.process.environment import guard_secrets, set_defaults

FIRST_STEPS = """\
First commands:

raft doctor                                # check this machine
raft align configs/tiny.yaml --name first  # align a tiny model in a minute
raft show first                            # its figures, per iteration
raft samples first                         # completions before and after
raft COMMAND --help                        # help and examples of a command
"""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog=f"{FIRST_STEPS}\n{exits.LEGEND}",
)
app.add_typer(alignment.app)
app.add_typer(configuration.app, name="config", rich_help_panel=ALIGN)
app.add_typer(runs.app)
app.add_typer(promotion.app)
app.add_typer(ledger.app, name="ledger", rich_help_panel=PROMOTE)
app.add_typer(lineage.app, name="lineage", rich_help_panel=AUDIT)
app.add_typer(exports.app, name="export", rich_help_panel=AUDIT)
app.add_typer(deployment.app)
app.add_typer(sync.app)
app.add_typer(gc.app)
app.add_typer(machine.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"raft {metadata.version('raft-mlops')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[
        bool, flag("--debug", help="Print the whole traceback of an error; may also follow the command.")
    ] = False,
) -> None:
    """RAFT aligns a language model with a reward.

    It samples several completions of each prompt, keeps those that the reward
    ranks best, fine-tunes the model on them, and repeats. Every step is
    recorded, so that a run can be continued, audited and reproduced.

    Runs are kept in the folder runs/ of the workspace: the current directory,
    or the one named by the environment variable RAFT_WORKSPACE. RUN is the
    name of a run, RUN@N the model (policy) made by its iteration N.
    """


def main() -> None:
    """Entry point of the ``raft`` command."""
    set_defaults()
    guard_secrets()
    exits.end_on_sigterm()
    sys.exit(exits.run_command(app, sys.argv[1:]))
