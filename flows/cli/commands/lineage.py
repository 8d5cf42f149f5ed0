"""``raft lineage …``: where a model comes from."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands import traces
from flows.cli.commands.shell import AsJson, RunName, print_json, standard_output
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder
from flows.text import harmless
from raft_core.errors import InputError

app = typer.Typer(help="Where a model comes from.", no_args_is_help=True)
app.add_typer(traces.app)


@app.command("show")
def lineage_show(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN[@N]|MODEL|FILE|DIGEST]", help="None: the latest run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the chain from a policy, a registered model, a file or a digest back to the first prompts."""
    from dataclasses import asdict

    from flows.cli.views.lineage import show_lineage
    from flows.lineage.origins import find_origin
    from raft_core.audit.lineage import lineage

    workspace = workspace_folder()
    found = find_origin(workspace, run, tracking_uri(workspace))
    chain = lineage(found.run, found.iteration)
    if as_json:
        print_json({**asdict(chain), "facts": list(found.facts)})
        return
    for fact in found.facts:
        standard_output().print(harmless(fact), markup=False, soft_wrap=True)
    standard_output().print(show_lineage(chain))


@app.command("verify")
def lineage_verify(
    run: Annotated[str | None, typer.Argument(metavar="[RUN|MODEL]", help="None: every run of the workspace.")] = None,
    chain: Annotated[bool, typer.Option("--chain", help="The chain of commits alone, no bytes.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="The objects of DVC's remote too, if it is a folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hash everything again and hold it against the commits, DVC's names and the registered versions.

    Every problem is named; the exit code is then 4.
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


@app.command("diff")
def lineage_diff(
    a: Annotated[str, typer.Argument(metavar="A", help="RUN@N, RUN (its best) or a registered model.")],
    b: Annotated[str, typer.Argument(metavar="B")],
    as_json: AsJson = False,
) -> None:
    """Which prompts, samples, rewards, settings and code differ between two models?"""
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


@app.command("checkout")
def lineage_checkout(
    policy: Annotated[str, typer.Argument(metavar="RUN@N", help="Or RUN (its best), or a registered model.")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Copy it there; none: into the run itself.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring the sets and the checkpoint of an iteration back, from the run, DVC's cache or its remote, verified."""
    from flows.models import find_model
    from tasks.versioning.checkout import checkout

    workspace = workspace_folder()
    ref = find_model(workspace, policy, tracking_uri(workspace))
    done = checkout(ref.run, ref.iteration, workspace, to)
    if as_json:
        print_json({"folder": str(done.folder), "restored": list(done.restored), "outputs": done.outputs})
        return
    how = f"{', '.join(done.restored)} restored through DVC" if done.restored else "all of it was in the run"
    typer.echo(
        f"{done.folder}: {done.outputs} outputs of iteration {ref.iteration} of run {ref.run.name}, verified ({how})"
    )


@app.command("reproduce")
def lineage_reproduce(
    run: RunName = None,
    clone: Annotated[
        bool, typer.Option("--clone", help="From a fresh clone of its code even if it is the same.")
    ] = False,
    into: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder that does not exist; kept.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run an alignment again from its records, with nothing to reuse, and compare every digest.

    Shows the first difference and its size; the exit code is then 4.
    """
    import shutil
    import tempfile
    from dataclasses import asdict

    from flows.cli.views.reproduction import show_reproduction
    from flows.lineage.reproduce import reproduce
    from flows.process.progress import reporter
    from raft_core.records.overview import find_run

    if into is not None and into.exists():
        raise InputError(f"{into} exists", hint="name a folder that does not")
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
