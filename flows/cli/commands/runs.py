"""``raft show``, ``runs``, ``samples``, ``merge``, ``report``: look at what runs have made."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.commands.shell import AsJson, RunName, print_json, standard_output
from flows.process.environment import tracking_uri, workspace_folder

app = typer.Typer()


@app.command()
def show(
    run: RunName = None,
    wide: Annotated[bool, typer.Option("--wide", help="Every column, however narrow the terminal is.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run: one row per iteration, its trends, its status and why it ended."""
    from raft_core.records.overview import find_run, view_run

    view = view_run(find_run(workspace_folder(), run))
    if as_json:
        print_json(view.as_json())
    else:
        from flows.cli.views.table import print_run

        print_run(standard_output(), view, wide=wide)


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List the runs of this workspace."""
    from raft_core.records.overview import last_touched, run_paths, view_or_fault

    views = [(view_or_fault(path), last_touched(path)) for path in run_paths(workspace_folder())]
    if as_json:
        print_json([view.summary() for view, _ in views])
    elif not views:
        standard_output().print(
            f"no run in {workspace_folder() / 'runs'}; start one: raft align configs/tiny.yaml", markup=False
        )
    else:
        from flows.cli.views.table import show_runs

        console = standard_output()
        console.print(show_runs(views, console.width))


@app.command()
def samples(
    run: RunName = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many prompts.")] = 8,
    iteration: Annotated[int | None, typer.Option(min=-1, help="Which one to show; none: the best.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show completions of the same held-out prompts before and after, side by side."""
    from flows.cli.views.samples import read_pairs, show_pairs
    from raft_core.records.overview import find_run

    iteration, pairs = read_pairs(find_run(workspace_folder(), run), iteration, count)
    if as_json:
        print_json([pair.as_json() for pair in pairs])
    else:
        standard_output().print(show_pairs(pairs, iteration))


@app.command()
def merge(
    policy: Annotated[str, typer.Argument(metavar="RUN[@N]", help="N: an iteration; none: the best.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
) -> None:
    """Write an iteration's adapter and its base as one plain checkpoint."""
    from flows.cli.commands.shell import confirm_seen
    from flows.models import find_policy, merge_policy

    workspace = workspace_folder()
    run, iteration = find_policy(workspace, policy, tracking_uri(workspace))
    confirm_seen(run, iteration, workspace)
    merged = merge_policy(run, iteration, out)
    typer.echo(f"{out}: iteration {merged} of run {run.name} as a plain checkpoint")


@app.command(hidden=True)
def report(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="What raft align --receipt wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where report.md and report.json go.")],
) -> None:
    """Write the report of an aligned run (for dvc.yaml)."""
    from flows.loop.stages import aligned_run, write_report
    from raft_core.records.overview import find_run, view_run

    workspace = workspace_folder()
    write_report(folder, view_run(find_run(workspace, aligned_run(receipt))))
