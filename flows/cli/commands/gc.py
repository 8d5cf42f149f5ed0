"""``raft gc``: delete weights that nothing needs."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.commands.shell import (
    OPERATE,
    TAKES_OVERRIDES,
    AsJson,
    OldPolicyOption,
    examples,
    flag,
    print_json,
    standard_output,
)
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder

app = typer.Typer()


@app.command(
    context_settings=TAKES_OVERRIDES,
    rich_help_panel=OPERATE,
    epilog=examples(
        ("raft gc", "only list what would be deleted"),
        ("raft gc keep_runs=5 keep_days=30", "the same, with other rules"),
        ("raft gc --yes", "delete it"),
    ),
)
def gc(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Values that replace those of the retention rules: keep_runs (keep all weights of so many runs, those "
            "last worked on), keep_days (keep all weights of runs worked on within so many days), keep_best (true or "
            "false: keep the best weights of each run), remote (true: also delete from DVC's remote; only if no other "
            "workspace uses it).",
        ),
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(
            "--rules",
            metavar="FILE",
            help="Retention rules, a YAML file with the keys above.",
            show_default="configs/retention.yaml in the workspace; without it keep_runs=3 keep_days=14 keep_best=true "
            "remote=false",
        ),
    ] = None,
    old_policy: OldPolicyOption = None,
    yes: Annotated[bool, flag("--yes", "-y", help="Delete; the default is a dry run.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the weights that nothing needs, and delete them with --yes.

    Deleted are weights in the run folders and in DVC's cache, scratch folders
    of finished steps, and prepared examples that are no longer used. Kept are
    weights that are registered, promoted or awaiting an approval, those of
    unfinished runs, and those that the retention rules keep.

    Tables, reports, commits and digests are never deleted, so that
    `raft lineage verify` can still check every run. Weights that were pushed
    to DVC's remote stay there unless remote=true.
    """
    from flows import gc as gc_flow
    from flows.cli.views.gc import show_gc

    workspace = workspace_folder()
    retention = gc_flow.rules_of(workspace, rules, overrides or ())
    found = gc_flow.gc(workspace, tracking_uri(workspace), ledger_uri(workspace), retention, remove=yes)
    if as_json:
        print_json({"removed": yes, **gc_flow.as_json(found)})
    else:
        show_gc(standard_output(), found, removed=yes, remote=retention.remote)
