"""``raft promote``, ``approve``, ``reject``, ``rollback``, ``pull``: which model is the champion, and who said so."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import AsJson, By, Quiet, print_json, standard_output
from flows.process.environment import identity, ledger_uri, tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.promotion.promote import Outcome, Place, Rules
    from raft_core.promotion.decision import Verdict

app = typer.Typer()

POLICY_FILE = Path("configs") / "promotion.yaml"
Reason = Annotated[str, typer.Option(help="Why; goes into the ledger.")]
PolicyFile = Annotated[
    Path | None, typer.Option("--policy", help="A promotion policy; none: configs/promotion.yaml of the workspace.")
]
WithoutMlflow = Annotated[
    bool,
    typer.Option("--without-mlflow", help="Go on although MLflow is away and cannot confirm the ledger and the run."),
]
Request = Annotated[str, typer.Argument(metavar="REQUEST", help="Number of the request in the ledger (raft ledger).")]


@app.command()
def promote(
    candidate: Annotated[str, typer.Argument(metavar="RUN[@N]", help="N: an iteration; none: the best.")],
    to: Annotated[str, typer.Option(help="The title to give; champion is the only one.")] = "champion",
    policy: PolicyFile = None,
    by: By = None,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure, decide and show; nothing goes into the ledger.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for an approval, where the policy wants one.")] = False,
    wait_s: Annotated[float, typer.Option(min=1, help="How long to wait, in seconds.")] = 3600,
    without_mlflow: WithoutMlflow = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Hold a model against the champion on evidence; if the gates open, it becomes the champion."""
    from raft_core.errors import ConfigError

    if to != "champion":
        raise ConfigError("no such title", got=to, expected="champion", hint="say --to champion, or leave it out")
    from flows.promotion.on_server import promote_shown
    from flows.promotion.promote import Question

    place = _place(quiet=quiet or as_json, without_mlflow=without_mlflow)
    interactive = sys.stdin.isatty() and not (yes or as_json)
    question = Question(
        candidate,
        identity(by),
        reason,
        policy_file(place.workspace, policy),
        dry_run,
        _ask if interactive else (lambda verdict: True),
    )
    _show(promote_shown(question, place, wait_s if wait else None), as_json=as_json)


@app.command()
def approve(
    request: Request,
    by: By = None,
    reason: Reason = "",
    policy: PolicyFile = None,
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Approve a request for promotion: its model becomes the champion."""
    from flows.promotion.approval import approve as agree

    place = _place(quiet=as_json, without_mlflow=without_mlflow)
    _show(agree(request, identity(by), reason, place, _rules(place, policy)), as_json=as_json)


@app.command()
def reject(request: Request, by: By = None, reason: Reason = "", as_json: AsJson = False) -> None:
    """Reject a request for promotion."""
    from flows.promotion.approval import reject as decline

    outcome = decline(request, identity(by), reason, _place(quiet=as_json))
    _show(outcome, as_json=as_json, refused_is_an_error=False)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; goes into the ledger.")],
    to: Annotated[str, typer.Option(help="previous, a version number, or the first digits of a commit.")] = "previous",
    model: Annotated[str | None, typer.Option(help="The registered model; none: the only one.")] = None,
    by: By = None,
    policy: PolicyFile = None,
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Make an earlier champion the champion again. Deletes nothing."""
    from flows.promotion.rollback import roll_back

    place = _place(quiet=as_json, without_mlflow=without_mlflow)
    _show(roll_back(model, to, identity(by), reason, place, _rules(place, policy)[0]), as_json=as_json)


@app.command()
def pull(
    reference: Annotated[str, typer.Argument(metavar="champion|MODEL@ALIAS|RUN@N", help="Which model.")],
    to: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Write a model as a verified, plain transformers folder."""
    from flows.promotion.pull import pull as bring

    manifest = bring(reference, to, _place(quiet=True, without_mlflow=without_mlflow))
    if as_json:
        print_json(manifest)
    else:
        typer.echo(f"{to}: {manifest['model']}, iteration {manifest['iteration']} of run {manifest['run']}, verified")


def policy_file(workspace: Path, chosen: Path | None) -> Path | None:
    """The file that was named, else the workspace's own; None: the defaults hold."""
    found = workspace / POLICY_FILE
    return chosen or (found if found.is_file() else None)


def _place(*, quiet: bool, without_mlflow: bool = False) -> "Place":
    from flows.process.progress import reporter
    from flows.promotion.promote import Place

    workspace = workspace_folder()
    return Place(workspace, tracking_uri(workspace), ledger_uri(workspace), reporter(quiet=quiet), without_mlflow)


def _rules(place: "Place", chosen: Path | None) -> "Rules":
    from raft_core.promotion.rules import load_rules

    return load_rules(policy_file(place.workspace, chosen))


def _ask(verdict: "Verdict") -> bool:
    from flows.cli.views.promotion import show_verdict

    standard_output().print(show_verdict(verdict))
    return typer.confirm("promote?")


def _show(outcome: "Outcome", *, as_json: bool, refused_is_an_error: bool = True) -> None:
    from flows.cli.views.promotion import as_json as entry_json
    from flows.cli.views.promotion import show_verdict

    if as_json:
        print_json(
            {
                "status": outcome.status,
                "message": outcome.message,
                "decision": outcome.verdict.as_json() if outcome.verdict else None,
                "entry": entry_json(outcome.entry) if outcome.entry else None,
            }
        )
    else:
        from flows.text import harmless

        if outcome.verdict is not None:
            standard_output().print(show_verdict(outcome.verdict))
        standard_output().print(harmless(outcome.message, 2000), markup=False, soft_wrap=True)
    closed = outcome.status == "dry_run" and outcome.verdict is not None and not outcome.verdict.passed
    if refused_is_an_error and (outcome.status in ("refused", "rejected", "declined") or closed):
        raise typer.Exit(exits.STOPPED_BY_GATE)
