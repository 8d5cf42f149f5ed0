"""``raft runs``, ``show``, ``samples``, ``merge``, ``report``: look at runs and at what they produced."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.commands.shell import RESULTS, AsJson, RunName, examples, flag, print_json, standard_output
from flows.process.environment import tracking_uri, workspace_folder

app = typer.Typer()


@app.command(
    rich_help_panel=RESULTS,
    epilog=examples(
        ("raft show", "the run that was last worked on"),
        ("raft show first --wide", "every column of run first"),
        ("raft show first --json", "all figures, for a script"),
    ),
)
def show(
    run: RunName = None,
    wide: Annotated[bool, flag("--wide", help="Show every column, even if the terminal is too narrow.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the figures of a run, one row per iteration, and why it ended.

    "base" is the policy before the alignment; a star marks the best iteration.
    All but headroom and accepted is measured on held-out prompts.

    reward      mean reward, with its confidence interval
    gold        mean gold reward, which the selection never sees
    perplexity  on a fixed text: low if the policy still models language well
    distinct-1  share of different words in all completions; distinct-2: of
                different word pairs. A fall means more repetition.
    KL          distance from the base policy, in nats per completion
    headroom    best minus mean reward of the samples of a prompt: what is
                left to gain by selecting
    truncated   share of completions that were cut at the maximum length
    accepted    share of the valid samples that were selected
    time        duration of the iteration, in minutes:seconds
    """
    from raft_core.records.overview import find_run, view_run

    view = view_run(find_run(workspace_folder(), run))
    if as_json:
        print_json(view.as_json())
    else:
        from flows.cli.views.table import print_run

        print_run(standard_output(), view, wide=wide)


@app.command(rich_help_panel=RESULTS, epilog=examples(("raft runs", "every run"), ("raft runs --json", "for a script")))
def runs(as_json: AsJson = False) -> None:
    """List the runs of this workspace.

    One row per run: status, finished iterations, the best iteration, the
    reward on held-out prompts before and after, and when it was last worked on.
    Below it says why runs failed or were stopped.
    """
    from raft_core.records.overview import last_touched, run_paths, view_or_fault

    views = [(view_or_fault(path), last_touched(path)) for path in run_paths(workspace_folder())]
    if as_json:
        print_json([view.summary() for view, _ in views])
    elif not views:
        standard_output().print(
            f"no runs in {workspace_folder() / 'runs'}; to start one: raft align configs/tiny.yaml", markup=False
        )
    else:
        from flows.cli.views.table import show_runs

        console = standard_output()
        console.print(show_runs(views, console.width))


@app.command(
    rich_help_panel=RESULTS,
    epilog=examples(
        ("raft samples", "the best iteration of the last run"),
        ("raft samples first -n 3 --iteration 0", "three prompts, after the first iteration"),
    ),
)
def samples(
    run: RunName = None,
    count: Annotated[int, typer.Option("-n", metavar="COUNT", min=1, help="Number of prompts to show.")] = 8,
    iteration: Annotated[
        int | None,
        typer.Option(metavar="N", min=-1, help="Iteration to compare with the base.", show_default="the best one"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show completions of held-out prompts before and after the alignment.

    One row per prompt: the prompt, the completion of the base policy with its
    reward, and that of the chosen iteration with its reward.
    """
    from flows.cli.views.samples import read_pairs, show_pairs
    from raft_core.records.overview import find_run

    iteration, pairs = read_pairs(find_run(workspace_folder(), run), iteration, count)
    if as_json:
        print_json([pair.as_json() for pair in pairs])
    else:
        standard_output().print(show_pairs(pairs, iteration))


@app.command(
    rich_help_panel=RESULTS,
    epilog=examples(
        ("raft merge first merged/", "the best iteration of run first"), ("raft merge first@2 merged/", "iteration 2")
    ),
)
def merge(
    policy: Annotated[
        str, typer.Argument(metavar="RUN[@N]", help="Iteration N of a run, or its best one; or a registered MODEL.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; it must not exist yet.")],
) -> None:
    """Merge an iteration's adapter into its base model.

    Writes one plain checkpoint to OUT, which transformers can load without
    peft. Use `raft pull` for models in production: it verifies every file and
    refuses models that were withdrawn.
    """
    from flows.cli.commands.shell import confirm_seen
    from flows.models import find_policy, merge_policy

    workspace = workspace_folder()
    run, iteration = find_policy(workspace, policy, tracking_uri(workspace))
    confirm_seen(run, iteration, workspace)
    merged = merge_policy(run, iteration, out)
    typer.echo(f"{out}: iteration {merged} of run {run.name} as a plain checkpoint")


@app.command(hidden=True, epilog=examples(("raft report data/align.json data", "as dvc.yaml does")))
def report(
    receipt: Annotated[
        Path, typer.Argument(metavar="RECEIPT", help="File that `raft align --receipt` wrote; it names the run.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for report.md and report.json.")],
) -> None:
    """Write report.md and report.json of an aligned run, for dvc.yaml."""
    from flows.loop.stages import aligned_run, write_report
    from raft_core.records.overview import find_run, view_run

    workspace = workspace_folder()
    write_report(folder, view_run(find_run(workspace, aligned_run(receipt))))
