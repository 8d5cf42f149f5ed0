"""``raft gc``: make room."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.commands.shell import TAKES_OVERRIDES, AsJson, print_json, standard_output
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder

app = typer.Typer()


@app.command(context_settings=TAKES_OVERRIDES)
def gc(
    rules: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="keep_runs=5 keep_days=30")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="A file of rules; none: configs/retention.yaml where it exists.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them; without this they are only listed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show which weights nothing needs any more, and with --yes remove them.

    What is registered or promoted stays, and what the rules name. Tables, reports, commits and digests
    always stay: the chain verifies as before.
    """
    from flows import gc as cleaning
    from flows.cli.views.gc import show_collection

    workspace = workspace_folder()
    retention = cleaning.rules_of(workspace, policy, rules or ())
    found = cleaning.gc(workspace, tracking_uri(workspace), ledger_uri(workspace), retention, remove=yes)
    if as_json:
        print_json({"removed": yes, **cleaning.as_json(found)})
    else:
        show_collection(standard_output(), found, removed=yes, remote=retention.remote)
