"""``raft align``, ``resume``, ``repro``, ``prepare``: bring a run about."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import (
    TAKES_OVERRIDES,
    AsJson,
    ConfigFile,
    Overrides,
    Quiet,
    run_names,
    settled_config,
    show_end,
)
from flows.process.environment import tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.loop.align import AlignResult
    from raft_core.config.run import RaftConfig

app = typer.Typer()


@app.command(context_settings=TAKES_OVERRIDES)
def align(
    config: ConfigFile,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The run lives in runs/NAME; none: CONFIG-digest.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="For dvc.yaml: write how it ended; a stop is then 0.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Align a model: start a run, or go on with it where it was interrupted."""
    from raft_core.config.loading import default_run_name
    from raft_core.errors import GateStop
    from raft_core.records.names import check_run_name
    from raft_core.records.run import open_run
    from tasks.loop.template_date import dated

    workspace, settled = workspace_folder(), settled_config(config, overrides)
    run_name = default_run_name(settled) if name is None else check_run_name(name)
    if (folder := workspace / "runs" / run_name).exists():
        open_run(folder.parent, run_name, dated(settled, folder, datetime.now(UTC).date().isoformat()))
    if receipt is None:
        _show(workspace, run_name, _work_on(workspace, run_name, settled, quiet=quiet or as_json), as_json=as_json)
        return
    from flows.loop.stages import write_align_receipt

    try:
        _work_on(workspace, run_name, settled, quiet=quiet)
    except GateStop as stop:
        exits.tell(f"stopped: {stop}")
    write_align_receipt(receipt, workspace, run_name)


@app.command(context_settings=TAKES_OVERRIDES)
def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its name: raft runs lists them.", autocompletion=run_names)
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of tracking and versioning alone.")
    ] = None,
    accept_reward_change: Annotated[
        bool, typer.Option(help="Continue although a reward's code or data changed; the records name what changed.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from its own recorded configuration, at the first step that is not finished."""
    from raft_core.records.names import check_run_name
    from raft_core.records.run import open_run, read_run

    workspace = workspace_folder()
    recorded = read_run(workspace / "runs" / check_run_name(run))
    settled = settled_config(recorded.path / "config.yaml", overrides) if overrides else recorded.config
    open_run(recorded.path.parent, run, settled)
    result = _work_on(workspace, run, settled, quiet=quiet or as_json, accept_reward_change=accept_reward_change)
    _show(workspace, run, result, as_json=as_json)


@app.command()
def repro() -> None:
    """Bring the default run about through DVC: dvc.yaml, skipping what is unchanged."""
    from flows.loop.stages import ALIGN_RECEIPT, aligned_run
    from flows.loop.stages import repro as run_dvc

    workspace = workspace_folder()
    nothing_to_do = run_dvc(workspace)
    show_end(workspace, aligned_run(workspace / ALIGN_RECEIPT), nothing_to_do=nothing_to_do, as_json=False)


@app.command()
def prepare(
    example: Annotated[str, typer.Argument(metavar="EXAMPLE", help="reviews or tiny.")],
    stage: Annotated[list[str] | None, typer.Option(help="Only this stage and what it needs; may be repeated.")] = None,
    receipt: Annotated[Path | None, typer.Option(help="Write what was prepared there (for dvc.yaml).")] = None,
    quiet: Quiet = False,
) -> None:
    """Prepare the parts of an example: fetch, convert, train."""
    from flows.loop.preparing import prepare_example
    from flows.loop.stages import write_parts_receipt
    from flows.process.progress import reporter

    receipts = prepare_example(example, reporter(quiet=quiet), stage)
    if receipt is not None:
        write_parts_receipt(receipt, {name: receipts[name] for name in (stage or receipts)})


def _work_on(
    workspace: Path, name: str, config: "RaftConfig", *, quiet: bool, accept_reward_change: bool = False
) -> "AlignResult":
    """Prepare the examples that ``config`` names, then start the run or go on with it."""
    from flows.loop.preparing import prepare_example
    from flows.process.progress import reporter
    from raft_core.examples import examples_of

    watching = reporter(quiet=quiet)
    with exits.resumable(workspace / "runs" / name):
        for example in examples_of(config):
            prepare_example(example, watching)

        from flows.loop.align import align_run

        return align_run(
            config,
            name=name,
            workspace=workspace,
            tracking_uri=tracking_uri(workspace),
            reporter=watching,
            accept_reward_change=accept_reward_change,
        )


def _show(workspace: Path, name: str, result: "AlignResult", *, as_json: bool) -> None:
    show_end(workspace, name, nothing_to_do=result.nothing_to_do, as_json=as_json)
    if result.status == "stopped":
        raise typer.Exit(exits.STOPPED_BY_GATE)
