"""``raft sync``: bring MLflow and DVC up to date from the run directories."""

from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import OPERATE, Quiet, examples, flag, run_names
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder

app = typer.Typer()


@app.command(
    rich_help_panel=OPERATE,
    epilog=examples(
        ("raft sync", "after an outage of MLflow or DVC's remote"),
        ("raft sync first", "one run only"),
        ("raft sync --all", "fill an empty MLflow or DVC remote again"),
    ),
)
def sync(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="RUN", help="Names of runs.", show_default="every run", autocompletion=run_names),
    ] = None,
    everything: Annotated[
        bool,
        flag(
            "--all",
            help="Compare with what MLflow and DVC really contain, instead of what the event logs say was sent, and "
            "write whatever is missing.",
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Bring MLflow and DVC up to date from the run folders.

    RAFT records every run in its own folder first, so a run continues while
    MLflow or DVC's remote cannot be reached. This command adds what they
    missed: metrics, registered models, table and checkpoint files. It also
    sets MLflow's aliases as the ledger says. Runs that are being worked on are
    left alone.

    Exit code 4: something could not be brought up to date; the warnings name
    it. Run the command again later.
    """
    from flows.loop.sync import sync, sync_aliases
    from flows.process.progress import reporter

    workspace = workspace_folder()
    uri, progress = tracking_uri(workspace), reporter(quiet=quiet)
    complete = sync(workspace, runs or (), uri, look=everything, reporter=progress)
    if not sync_aliases(workspace, ledger_uri(workspace), uri, progress) or not complete:
        raise typer.Exit(exits.FAILED_STEP)
