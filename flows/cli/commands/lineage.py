"""``raft lineage …``: what a model was made from, and what a prompt was used for."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands import traces
from flows.cli.commands.shell import AsJson, RunName, examples, flag, print_json, standard_output
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder
from flows.text import harmless
from raft_core.errors import InputError

app = typer.Typer(
    help="""Trace what a model was made from, and what a prompt or sample was used for.

    Also verifies and reproduces runs, and forgets data. RUN@N stands for the
    model (policy) that iteration N of a run has produced; a registered model
    can be named instead, as MODEL or MODEL@ALIAS.""",
    no_args_is_help=True,
    epilog=examples(
        ("raft lineage show first", "from the best model of run first to its base"),
        ("raft lineage verify", "check every file of every run"),
        ('raft lineage find --text "one of the best"', "what was trained on this?"),
    ),
)
app.add_typer(traces.app)

Clone = Annotated[
    bool, flag("--clone", help="Use a fresh git clone of the recorded code, even if the present code is the same.")
]
Into = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for the second run; it must not exist yet, and is kept.",
        show_default="a temporary folder, deleted if the results are the same",
    ),
]


@app.command(
    "show",
    epilog=examples(
        ("raft lineage show", "the best model of the last run"),
        ("raft lineage show raft-tiny@champion", "a registered model"),
        ("raft lineage show runs/first/iterations/002/policy", "a folder or file of a run"),
        ("raft lineage show 4dbc04a73c9d", "the first digits of a digest, from a log"),
    ),
)
def lineage_show(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN[@N]|MODEL|FILE|DIGEST",
            help="A run (its best iteration), an iteration, a registered model, a file or folder of a run, or at least "
            "6 digits of a commit, policy or file digest.",
            show_default="the run that was last worked on",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show how a model was made, from its last iteration back to its base.

    One row per iteration, newest first: the digest of its weights, its
    reward, how many prompts, samples and selected samples it was made from,
    and the commit that records all of this.
    """
    from dataclasses import asdict

    from flows.cli.views.lineage import show_lineage
    from flows.lineage.origins import find_origin
    from raft_core.audit.lineage import lineage

    workspace = workspace_folder()
    found = find_origin(workspace, target, tracking_uri(workspace))
    chain = lineage(found.run, found.iteration)
    if as_json:
        print_json({**asdict(chain), "facts": list(found.facts)})
        return
    for fact in found.facts:
        standard_output().print(harmless(fact), markup=False, soft_wrap=True)
    standard_output().print(show_lineage(chain))


@app.command(
    "verify",
    epilog=examples(
        ("raft lineage verify", "every run of the workspace"),
        ("raft lineage verify first --chain", "one run, without hashing: seconds"),
        ("raft lineage verify --remote", "the copies in DVC's remote as well"),
    ),
)
def lineage_verify(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN|MODEL", help="A run, or a registered model.", show_default="every run")
    ] = None,
    chain: Annotated[
        bool, flag("--chain", help="Check only the chain of commits; do not hash tables and weights.")
    ] = False,
    remote: Annotated[
        bool, flag("--remote", help="Also hash the copies in DVC's remote, if the remote is a folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that no recorded file has changed: hash it again and compare.

    Compared are the files of each run with its commits, the copies in DVC's
    cache with their names, and the commits with those that MLflow's registry
    and the ledger name. Prints one row per run, then every problem, then what
    could not be checked (for example files that are not on this machine).
    Nothing is changed.

    Exit code 4: there are problems.
    """
    from flows.cli.views.verification import show_checked
    from flows.lineage.verification import Scope, verify
    from flows.models import find_policy
    from raft_core.records.overview import run_paths
    from tasks.promotion.ledger import open_ledger

    workspace = workspace_folder()
    uri, scope = tracking_uri(workspace), Scope(rehash=not chain, remote=remote)
    paths = list(run_paths(workspace)) if run is None else [find_policy(workspace, run, uri)[0].path]
    checked = verify(workspace, paths, uri, scope, open_ledger(ledger_uri(workspace)))
    if as_json:
        print_json(checked.as_json())
    else:
        standard_output().print(show_checked(checked, scope))
    if checked.problems:
        raise typer.Exit(exits.FAILED_STEP)


@app.command(
    "diff",
    epilog=examples(
        ("raft lineage diff first@0 first@2", "two iterations of a run"),
        ("raft lineage diff raft-tiny@champion second", "the champion and run second"),
    ),
)
def lineage_diff(
    a: Annotated[
        str, typer.Argument(metavar="A", help="First model: RUN (its best iteration), RUN@N, or a registered model.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Second model, named in the same way.")],
    as_json: AsJson = False,
) -> None:
    """Compare two models: settings, code, prompts, samples and rewards.

    Prints where their histories part, which settings and library versions
    differ, and for each iteration how many prompts, samples and selected
    samples both have in common.
    """
    from dataclasses import asdict

    from flows.cli.views.difference import show_difference
    from flows.models import find_model
    from raft_core.audit.difference import difference

    workspace = workspace_folder()
    uri = tracking_uri(workspace)
    found = difference(find_model(workspace, a, uri), find_model(workspace, b, uri))
    if as_json:
        print_json({**asdict(found), "same": found.same})
    else:
        standard_output().print(show_difference(found))


@app.command(
    "checkout",
    epilog=examples(
        ("raft lineage checkout first@2", "restore missing files of iteration 2"),
        ("raft lineage checkout first@2 --to audit/", "a verified copy"),
    ),
)
def lineage_checkout(
    policy: Annotated[
        str, typer.Argument(metavar="RUN@N", help="An iteration, a run (its best iteration), or a registered model.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a copy to DIR, which must not exist yet.",
            show_default="restore missing files in the run's own folder",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Restore the tables and the checkpoint of an iteration, and verify them.

    What is not in the run's folder is fetched from DVC's cache or its remote.
    Every file is checked against its recorded digest.
    """
    from flows.models import find_model
    from tasks.versioning.checkout import checkout

    workspace = workspace_folder()
    ref = find_model(workspace, policy, tracking_uri(workspace))
    done = checkout(ref.run, ref.iteration, workspace, to)
    if as_json:
        print_json({"folder": str(done.folder), "restored": list(done.restored), "outputs": done.outputs})
        return
    how = (
        f"{', '.join(done.restored)} restored through DVC" if done.restored else "all of them were in the run's folder"
    )
    typer.echo(
        f"{done.folder}: {done.outputs} files of iteration {ref.iteration} of run {ref.run.name}, verified ({how})"
    )


@app.command(
    "reproduce",
    epilog=examples(
        ("raft lineage reproduce first", "in a temporary folder"),
        ("raft lineage reproduce first --into again/", "keep the second run"),
    ),
)
def lineage_reproduce(run: RunName = None, clone: Clone = False, into: Into = None, as_json: AsJson = False) -> None:
    """Run an alignment a second time from its records, and compare the results.

    Uses the recorded configuration and, through a git clone, the recorded
    version of the code. Nothing of the first run is reused, so this takes as
    long as the run itself. Every digest is compared.

    Exit code 0: all files are the same, byte by byte.
    Exit code 4: they are not; the first difference and its size are printed.
    """
    import shutil
    import tempfile
    from dataclasses import asdict

    from flows.cli.views.reproduction import show_reproduction
    from flows.lineage.reproduce import reproduce
    from flows.process.progress import reporter
    from raft_core.records.overview import find_run

    if into is not None and into.exists():
        raise InputError(f"--into: {into} exists already", hint="name a folder that does not exist yet")
    workspace = workspace_folder()
    found_run = find_run(workspace, run)
    scratch = (into or Path(tempfile.mkdtemp(prefix="raft-reproduce-"))).absolute()
    scratch.mkdir(parents=True, exist_ok=True)
    found = reproduce(
        found_run,
        workspace,
        scratch,
        clone=clone,
        environment=os.environ,
        say=reporter(quiet=as_json).say,
        quiet=as_json,
    )
    if as_json:
        print_json(
            {
                **asdict(found.comparison),
                "same": found.comparison.same,
                "notes": list(found.notes),
                "commit": found.commit,
                "run": str(found.run),
            }
        )
    else:
        standard_output().print(show_reproduction(found))
    if not found.comparison.same:
        raise typer.Exit(exits.FAILED_STEP)
    if into is None:
        shutil.rmtree(scratch, ignore_errors=True)
