"""``raft …``: thin, one function a command; the only place of this floor that reads the environment.

Heavy libraries are imported inside the commands that need them.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flows import exits

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set unless the user set them: no library calls home, and none talks over the progress bars."""

app = typer.Typer(
    help="RAFT: sample, score, validate, select, fine-tune, evaluate, repeat.",
    no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode="rich",
)  # fmt: skip
config_app = typer.Typer(help="Show and check configurations.", no_args_is_help=True)
lineage_app = typer.Typer(help="Where a model comes from.", no_args_is_help=True)
app.add_typer(config_app, name="config")
app.add_typer(lineage_app, name="lineage")

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/tiny.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="sampling.top_p=0.9")]
RunName = Annotated[str | None, typer.Argument(metavar="[RUN]", help="Its name; none: the latest.")]
AsJson = Annotated[bool, typer.Option("--json", help="For scripts: one JSON document on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    """RAFT: sample, score, validate, select, fine-tune, evaluate, repeat."""


@app.command()
def align(
    config: ConfigFile,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run lives in runs/NAME; none: CONFIG-digest.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="For dvc.yaml: write how it ended; a stop is then 0.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Align a model: start a run, or go on with it where it was interrupted."""
    from flows.progress import reporter
    from flows.views.run import check_name
    from raft_core.embedded import prepare as prepare_world
    from raft_core.embedded import worlds_of
    from raft_core.loading import default_run_name, load_config
    from raft_core.records.run import open_run

    workspace, settled = _workspace(), load_config(config, overrides or ())
    run_name = default_run_name(settled) if name is None else check_name(name)
    if (workspace / "runs" / run_name).exists():
        open_run(workspace / "runs", run_name, settled)
    watching = reporter(quiet=quiet or as_json)
    for world in worlds_of(settled):
        prepare_world(world, progress=watching.say)

    from flows.align import align_run

    result = align_run(
        settled, name=run_name, workspace=workspace, tracking_uri=_tracking_uri(workspace), reporter=watching
    )
    if receipt is not None:
        from flows.stages import write_align_receipt

        write_align_receipt(receipt, workspace, run_name)
    else:
        _show_end(workspace, run_name, nothing_to_do=result.nothing_to_do, as_json=as_json)
        if result.status == "stopped":
            raise typer.Exit(exits.STOPPED_BY_GATE)


@app.command()
def repro() -> None:
    """Bring the default run about through DVC: dvc.yaml, skipping what is unchanged."""
    from flows.stages import ALIGN_RECEIPT, aligned_run
    from flows.stages import repro as run_dvc

    workspace = _workspace()
    nothing_to_do = run_dvc(workspace)
    _show_end(workspace, aligned_run(workspace / ALIGN_RECEIPT), nothing_to_do=nothing_to_do, as_json=False)


@app.command()
def prepare(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="reviews or tiny.")],
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage and what it needs; may be repeated.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="Write what was prepared there (for dvc.yaml).")] = None,
    quiet: Quiet = False,
) -> None:
    """Prepare the parts of an embedded world: fetch, convert, train."""
    from flows.progress import reporter
    from flows.stages import write_parts_receipt
    from raft_core.embedded import prepare as prepare_world

    receipts = prepare_world(world, stages=stage or None, progress=reporter(quiet=quiet).say)
    if receipt is not None:
        write_parts_receipt(receipt, {name: receipts[name] for name in (stage or receipts)})


@app.command()
def show(run: RunName = None, as_json: AsJson = False) -> None:
    """Show a run: a row an iteration, its trends, its status and why it ended."""
    from flows.views.run import find_run, view_run

    view = view_run(find_run(_workspace(), run))
    if as_json:
        _print_json(view.as_json())
    else:
        from flows.views.table import print_run

        print_run(_console(), view)


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List the runs of this workspace."""
    from flows.views.run import last_touched, run_paths, view_or_fault

    views = [(view_or_fault(path), last_touched(path)) for path in run_paths(_workspace())]
    if as_json:
        _print_json([view.summary() for view, _ in views])
    elif not views:
        _console().print(f"no run in {_workspace() / 'runs'}; start one: raft align configs/tiny.yaml", markup=False)
    else:
        from flows.views.table import show_runs

        _console().print(show_runs(views))


@app.command()
def samples(
    run: RunName = None,
    count: Annotated[int, typer.Option("-n", min=1, help="How many prompts.")] = 8,
    iteration: Annotated[int | None, typer.Option(min=-1, help="Which one to show; none: the best.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show completions of the same held-out prompts before and after, side by side."""
    from flows.views.run import find_run
    from flows.views.samples import read_pairs, show_pairs

    iteration, pairs = read_pairs(find_run(_workspace(), run), iteration, count)
    if as_json:
        _print_json([pair.as_json() for pair in pairs])
    else:
        _console().print(show_pairs(pairs, iteration))


@lineage_app.command("show")
def lineage_show(
    run: Annotated[str | None, typer.Argument(metavar="[RUN[@N]|MODEL]", help="None: the latest run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the chain from a policy, or a registered model, back to its first prompts."""
    from dataclasses import asdict

    from flows.models import find_policy
    from flows.views.lineage import show_lineage
    from raft_core.records.lineage import lineage

    workspace = _workspace()
    chain = lineage(*find_policy(workspace, run, _tracking_uri(workspace)))
    if as_json:
        _print_json(asdict(chain))
    else:
        _console().print(show_lineage(chain))


@app.command()
def merge(
    policy: Annotated[str, typer.Argument(metavar="RUN[@N]", help="N: an iteration; none: the best.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that does not exist yet.")],
) -> None:
    """Write an iteration's adapter and its base as one plain checkpoint."""
    from flows.models import find_policy, merge_policy

    workspace = _workspace()
    run, iteration = find_policy(workspace, policy, _tracking_uri(workspace))
    merged = merge_policy(run, iteration, out)
    typer.echo(f"{out}: iteration {merged} of run {run.name} as a plain checkpoint")


@config_app.command("show")
def config_show(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print the resolved configuration, every default written out."""
    from raft_core.loading import dump_config, load_config

    typer.echo(dump_config(load_config(config, overrides or ())), nl=False)


@config_app.command("validate")
def config_validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration; every fault is told at once."""
    from raft_core.loading import default_run_name, load_config

    typer.echo(f"{config} is valid; its run is called {default_run_name(load_config(config, overrides or ()))}")


@config_app.command("reference", hidden=True)
def config_reference() -> None:
    """Print the reference of every key as Markdown (docs/configuration.md)."""
    from flows.reference import reference

    typer.echo(reference(), nl=False)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, compiler, cores, memory, disk, parts, addresses."""
    from flows.doctor import diagnose, show_findings

    workspace = _workspace()
    findings = diagnose(workspace, _tracking_uri(workspace), os.environ.get("CXX"))
    if as_json:
        _print_json([finding.as_json() for finding in findings])
    else:
        _console().print(show_findings(findings))
    if any(finding.level == "missing" for finding in findings):
        raise typer.Exit(exits.FAILED_STEP)


@app.command(hidden=True)
def report(
    receipt: Annotated[Path, typer.Argument(metavar="RECEIPT", help="What raft align --receipt wrote.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where report.md and report.json go.")],
) -> None:
    """Write the report of an aligned run (for dvc.yaml)."""
    from flows.stages import aligned_run, write_report
    from flows.views.run import find_run, view_run

    workspace = _workspace()
    write_report(folder, view_run(find_run(workspace, aligned_run(receipt))))


# -- what surrounds a command ------------------------------------------------------------------


def _workspace() -> Path:
    """Where runs/, mlflow.db and .dvc lie: RAFT_WORKSPACE, else the current directory."""
    return Path(os.environ.get("RAFT_WORKSPACE") or ".").expanduser().absolute()


def _tracking_uri(workspace: Path) -> str:
    """MLFLOW_TRACKING_URI, else a sqlite file in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace / 'mlflow.db'}"


def _console() -> Console:
    """Standard output: as wide as the terminal; 120 characters in a log."""
    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=120)


def _print_json(document: Any) -> None:
    """ASCII only, so that no character of a model's output can steer the terminal."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False) + "\n")


def _show_end(workspace: Path, name: str, *, nothing_to_do: bool, as_json: bool) -> None:
    from flows.views.run import find_run, view_run
    from flows.views.table import print_run, what_next

    view, console = view_run(find_run(workspace, name)), _console()
    if as_json:
        return _print_json(view.as_json())
    if nothing_to_do:
        console.print(f"nothing had to be done: run {name} is complete and every byte of it verifies", markup=False)
    print_run(console, view)
    console.print(what_next(name, _tracking_uri(workspace)), markup=False, soft_wrap=True)


def main() -> None:
    """Entry point of the ``raft`` command."""
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    sys.exit(exits.run_command(app, sys.argv[1:]))
