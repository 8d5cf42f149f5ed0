"""``raft promote``, ``approve``, ``reject``, ``rollback``, ``pull``: which model is the champion, and who decided."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import (
    PROMOTE,
    AsJson,
    By,
    OldPolicyOption,
    Quiet,
    examples,
    flag,
    print_json,
    standard_output,
)
from flows.process.environment import identity, ledger_uri, tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.promotion.promote import Outcome, Place, Rules
    from raft_core.promotion.decision import Verdict

app = typer.Typer()

RULES = Path("configs") / "promotion.yaml"
"""The workspace's own promotion rules."""
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the ledger.", show_default="no reason")]
RulesFile = Annotated[
    Path | None,
    typer.Option(
        "--rules",
        metavar="FILE",
        help="Promotion rules, a YAML file: gates, approvals, and hooks that run afterwards.",
        show_default="configs/promotion.yaml in the workspace; without it the built-in rules",
    ),
]
WithoutMlflow = Annotated[
    bool,
    flag(
        "--without-mlflow",
        help="Continue if MLflow cannot be reached. It then cannot confirm that the ledger and the run are unchanged.",
    ),
]
Request = Annotated[
    str,
    typer.Argument(
        metavar="REQUEST", help="Number of the request in the ledger (see `raft ledger`), or the start of its digest."
    ),
]
To = Annotated[str, typer.Option(metavar="ALIAS", help="Alias to assign; only champion is supported.")]
Yes = Annotated[bool, flag("--yes", "-y", help="Do not ask for confirmation on a terminal.")]
DryRun = Annotated[
    bool, flag("--dry-run", help="Measure, decide and show the decision, but do not record it in the ledger.")
]
Wait = Annotated[bool, flag("--wait", help="If the rules ask for an approval, wait until the request is decided.")]
WaitSeconds = Annotated[float, typer.Option(metavar="SECONDS", min=1, help="How long --wait waits, in seconds.")]

GATES = """\
Gates, whose thresholds are set in the rules. Each compares a bound of a
confidence interval with its threshold, so too few prompts cannot pass:

paired_prompts  number of prompts that both models were scored on
scored_share    share of the prompts that both models were scored on
reward          gain in mean reward; gold_reward: in mean gold reward
perplexity      relative rise on a fixed text
distinct_1      ratio of the shares of different words; distinct_2: pairs
kl              distance from the candidate's own base, nats per completion
truncation      rise of the share of completions cut at maximum length
slice:GROUP     gain in mean reward on one group of prompts
safety          share of answers that pass the safety suite
safety_gain     gain in that share
"""


@app.command(
    rich_help_panel=PROMOTE,
    epilog=f"{GATES}\n"
    + examples(
        ("raft promote first --dry-run", "show the decision only"),
        ('raft promote first --reason "first release"', "the best iteration of run first"),
        ("raft promote first@3 --yes --json", "iteration 3, from a script"),
    ),
)
def promote(
    candidate: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@N]", help="The candidate: iteration N of a run, or its best one; or a registered MODEL."
        ),
    ],
    to: To = "champion",
    rules: RulesFile = None,
    old_policy: OldPolicyOption = None,
    by: By = None,
    reason: Reason = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    wait: Wait = False,
    wait_s: WaitSeconds = 3600,
    without_mlflow: WithoutMlflow = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare a model with the champion and, if it passes the gates, make it the champion.

    The champion is the model in use. All files of the candidate are verified
    first. Then both models complete the same prompts, which no training has
    seen, and the promotion rules decide. Without a champion, the candidate is
    compared with its own base policy. This takes about as long as one
    evaluation; measurements are kept in promotions/ and reused.

    The figures and the decision are printed and recorded in the ledger, and
    MLflow's alias champion follows. On a terminal you are asked before
    anything is recorded. If the rules ask for an approval, a request is
    recorded instead, which another person decides with `raft approve`.

    Exit code 0: promoted, or waiting for an approval.
    Exit code 3: a gate failed, or you answered no.
    Exit code 4: files of the model do not match their recorded digests.
    """
    from raft_core.errors import ConfigError

    if to != "champion":
        raise ConfigError(
            "unknown alias for --to", got=to, expected="champion", hint="write --to champion, or leave the option out"
        )
    from flows.promotion.on_server import promote_shown
    from flows.promotion.promote import Question

    place = _place(quiet=quiet or as_json, without_mlflow=without_mlflow)
    interactive = sys.stdin.isatty() and not (yes or as_json)
    question = Question(
        candidate,
        identity(by),
        reason,
        _rules_file(place.workspace, rules),
        dry_run,
        _ask if interactive else (lambda verdict: True),
    )
    _show(promote_shown(question, place, wait_s if wait else None), as_json=as_json)


@app.command(
    rich_help_panel=PROMOTE,
    epilog=examples(
        ("raft ledger", "find the number of the request"), ('raft approve 4 --reason "release 2"', "approve request 4")
    ),
)
def approve(
    request: Request,
    by: By = None,
    reason: Reason = "",
    rules: RulesFile = None,
    old_policy: OldPolicyOption = None,
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Approve a request for promotion: its model becomes the champion.

    The approval is recorded in the ledger, and MLflow's alias champion
    follows. Give the same --rules as the request was made with. Unless the
    rules allow it, the person who asked cannot approve.

    An approval is refused if the measurements are too old, the champion has
    changed since, or the model was withdrawn: run `raft promote` again then.
    """
    from flows.promotion.approval import approve as approve_request

    place = _place(quiet=as_json, without_mlflow=without_mlflow)
    _show(approve_request(request, identity(by), reason, place, _rules(place, rules)), as_json=as_json)


@app.command(
    rich_help_panel=PROMOTE, epilog=examples(('raft reject 4 --reason "not before Monday"', "reject request 4"))
)
def reject(request: Request, by: By = None, reason: Reason = "", as_json: AsJson = False) -> None:
    """Reject a request for promotion: the champion stays as it is.

    The rejection is recorded in the ledger. The person who made the request
    may take it back in this way.
    """
    from flows.promotion.approval import reject as reject_request

    outcome = reject_request(request, identity(by), reason, _place(quiet=as_json))
    _show(outcome, as_json=as_json, refused_is_an_error=False)


@app.command(
    rich_help_panel=PROMOTE,
    epilog=examples(
        ('raft rollback --reason "too many complaints"', "to the champion before"),
        ('raft rollback --to 3 --reason "as in May"', "to version 3 in MLflow"),
    ),
)
def rollback(
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; kept in the ledger.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET",
            help="previous (the champion before), a version number in MLflow, or the first digits of a commit. Only a "
            "model that was champion before can be named.",
        ),
    ] = "previous",
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Name of the registered model.", show_default="the only one in the ledger"),
    ] = None,
    by: By = None,
    rules: RulesFile = None,
    old_policy: OldPolicyOption = None,
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Make an earlier champion the champion again.

    This takes seconds: its files are fetched if necessary and verified, but
    nothing is measured again. The change is recorded in the ledger, and
    MLflow's alias champion follows. Nothing is deleted. If you run the
    command again, it returns to the champion before that one.
    """
    from flows.promotion.rollback import roll_back

    place = _place(quiet=as_json, without_mlflow=without_mlflow)
    _show(roll_back(model, to, identity(by), reason, place, _rules(place, rules)[0]), as_json=as_json)


@app.command(
    rich_help_panel=PROMOTE,
    epilog=examples(
        ("raft pull champion --to served/", "the model in use"),
        ("raft pull first@3 --to served/", "iteration 3 of run first"),
    ),
)
def pull(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="champion, previous, MODEL@champion, or RUN@N (an iteration of a run). The ledger says which model "
            "an alias means.",
        ),
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to; it must not exist yet.")],
    without_mlflow: WithoutMlflow = False,
    as_json: AsJson = False,
) -> None:
    """Copy a model out, as a folder that transformers can load.

    Every file is verified, an adapter is merged into its base model, and
    weights that are not on this machine are fetched through DVC. The folder
    appears only when it is complete. Its raft.json names the run, iteration
    and commit that the model comes from.
    """
    from flows.promotion.pull import pull as pull_model

    manifest = pull_model(reference, to, _place(quiet=True, without_mlflow=without_mlflow))
    if as_json:
        print_json(manifest)
    else:
        from flows.promotion.pull import kind_of

        origin = f"{manifest['model']}, iteration {manifest['iteration']} of run {manifest['run']}"
        typer.echo(f"{to}: {origin}, verified; {kind_of(manifest)}")


def _rules_file(workspace: Path, chosen: Path | None) -> Path | None:
    """The file that was named, else the workspace's own; None: the built-in rules."""
    own = workspace / RULES
    return chosen or (own if own.is_file() else None)


def _place(*, quiet: bool, without_mlflow: bool = False) -> "Place":
    from flows.process.progress import reporter
    from flows.promotion.promote import Place

    workspace = workspace_folder()
    return Place(workspace, tracking_uri(workspace), ledger_uri(workspace), reporter(quiet=quiet), without_mlflow)


def _rules(place: "Place", chosen: Path | None) -> "Rules":
    from raft_core.promotion.rules import load_rules

    return load_rules(_rules_file(place.workspace, chosen))


def _ask(verdict: "Verdict") -> bool:
    from flows.cli.views.promotion import show_verdict

    standard_output().print(show_verdict(verdict))
    return typer.confirm("promote this model?")


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
