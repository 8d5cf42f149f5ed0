"""``raft sync``: bring MLflow and DVC up to date from the run directories."""

from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import Quiet
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder

app = typer.Typer()


@app.command()
def sync(
    runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="None: every run.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Believe nothing that was noted: look at what is there, write what is not.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Bring MLflow and DVC up to date: what they missed while they were away, or (--all) everything."""
    from flows.loop.sync import sync, sync_aliases
    from flows.process.progress import reporter

    workspace = workspace_folder()
    uri, watching = tracking_uri(workspace), reporter(quiet=quiet)
    whole = sync(workspace, runs or (), uri, look=everything, reporter=watching)
    if not sync_aliases(workspace, ledger_uri(workspace), uri, watching) or not whole:
        raise typer.Exit(exits.FAILED_STEP)
