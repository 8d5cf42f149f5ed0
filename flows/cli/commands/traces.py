"""``raft lineage find``, ``explain``, ``forget``: what a prompt, sample, source or text was used for."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import AsJson, By, examples, flag, print_json, standard_output
from flows.process.environment import identity, ledger_uri, tracking_uri, workspace_folder
from raft_core.errors import InputError

if TYPE_CHECKING:
    from raft_core.audit.trace import By as Kind

app = typer.Typer()

Most = Annotated[
    int, typer.Option("-n", metavar="COUNT", min=1, help="Largest number of prompts and of samples to list.")
]
ByText = Annotated[
    str | None, typer.Option("--text", metavar="TEXT", help="Part of a prompt or of a selected completion, exactly.")
]
ByPrompt = Annotated[
    str | None,
    typer.Option("--prompt", metavar="ID", help="Id of a prompt (prompt_id), or at least its first 6 digits."),
]
BySample = Annotated[
    str | None,
    typer.Option("--sample", metavar="ID", help="Id of a sample (sample_id), or at least its first 6 digits."),
]
BySource = Annotated[
    str | None,
    typer.Option(
        "--source", metavar="NAME", help="Source of prompts or samples, as the field `source` of their records says."
    ),
]

Erase = Annotated[
    bool,
    flag(
        "--erase",
        help="Also delete its rows for good: from the tables of all runs, from DVC's cache and remotes, and from "
        "Prefect's database.",
    ),
]


@app.command(
    epilog=examples(
        ('raft lineage find --text "one of the best"', "an exact piece of text"),
        ('raft lineage find --source "movies 886"', "everything from one source"),
        ("raft lineage find --prompt b81266bf6080", "a prompt, by the first digits of its id"),
    )
)
def find(
    text: ByText = None,
    prompt: ByPrompt = None,
    sample: BySample = None,
    source: BySource = None,
    most: Most = 12,
    as_json: AsJson = False,
) -> None:
    """Find which models were trained on a text, prompt, sample or source.

    Give exactly one of --text, --prompt, --sample and --source. Searches all
    runs of the workspace. Prints the prompts and samples that match, the
    iterations that used them, which samples were selected for training, and
    which models were trained on them, directly or through an earlier model.
    """
    from dataclasses import asdict

    from flows.cli.views.trace import show_trace
    from flows.forgetting.forgotten_before import forgotten_before
    from flows.lineage.tracing import join_events
    from flows.process.progress import reporter
    from raft_core.audit.index import open_index
    from raft_core.audit.trace import find as find_in

    by, value = one_of(text=text, prompt=prompt, sample=sample, source=source)
    workspace = workspace_folder()
    runs = workspace / "runs"
    with open_index(runs, reporter(quiet=as_json).say) as index:
        traced = join_events(find_in(index, by, value), runs)
    before = forgotten_before(workspace, by, value)
    if as_json:
        print_json({**traced.as_json(most), "forgotten": [asdict(one) for one in before]})
    else:
        standard_output().print(show_trace(traced, most, before))


def one_of(**values: str | None) -> "tuple[Kind, str]":
    """The one option that was given. Raises InputError for none or several."""
    given = {name: value for name, value in values.items() if value is not None}
    if len(given) != 1:
        raise InputError(
            "exactly one of these options is needed",
            got=", ".join(f"--{name}" for name in given) or "none of them",
            expected=f"one of {', '.join(f'--{name}' for name in values)}",
            hint=f"give one option, such as --{next(iter(values))}",
        )
    ((name, value),) = given.items()
    return name, value  # type: ignore[return-value]


@app.command(
    epilog=examples(
        ("raft lineage explain 212e7baa412c", "a sample that `raft lineage find` has shown"),
        ("raft lineage explain 212e7baa412c --run first@0", "its place in that iteration"),
    )
)
def explain(
    sample: Annotated[
        str, typer.Argument(metavar="SAMPLE", help="Id of a sample (sample_id), or at least its first 6 digits.")
    ],
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN[@N]",
            help="Run or iteration to look in, if several contain the sample.",
            show_default="the first that contains it",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain why a sample was selected for training, or was not.

    Prints its prompt and completion, the score of each reward, the validation
    checks that failed, the rule that decided, and the other samples of the
    same prompt with their ranks.
    """
    from flows.cli.views.explanation import show_explanation
    from flows.forgetting.forgotten_before import tombstones
    from flows.lineage.tracing import iterations_of
    from raft_core.audit.index import open_index
    from raft_core.records.overview import find_run
    from tasks.audit.explain import explain as explain_it

    workspace = workspace_folder()
    with open_index(workspace / "runs") as index:
        erased = [place for place, _ in tombstones(workspace / "runs")]
        sample_id, places = iterations_of(index, sample, run, erased)
    name, iteration = places[0]
    found = explain_it(find_run(workspace, name), iteration, sample_id)
    if as_json:
        from dataclasses import asdict

        print_json({**asdict(found), "also_in": [f"{other}@{number}" for other, number in places[1:]]})
        return
    standard_output().print(show_explanation(found))
    if len(places) > 1:
        others = ", ".join(f"{other}@{number}" for other, number in places[1:])
        standard_output().print(f"the same sample is also in {others} (choose with --run)", markup=False, style="dim")


@app.command(
    epilog=examples(
        ("raft lineage forget --prompt b81266bf6080", "list what it touched, then ask"),
        ('raft lineage forget --source "movies 886" --erase', "and delete its rows for good"),
    )
)
def forget(
    prompt: ByPrompt = None,
    text: ByText = None,
    source: BySource = None,
    erase: Erase = False,
    by: By = None,
    yes: Annotated[bool, flag("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Exclude a prompt, text or source from training, and withdraw affected models.

    Give exactly one of --prompt, --text and --source. What it touched is listed
    first, and nothing is done until you confirm (or give --yes). Then:

    1. Later runs leave it out (it is added to exclusions.jsonl).
    2. Models that were trained on it, or descend from one that was, are
       withdrawn: they lose their aliases in MLflow and cannot be promoted.
    3. With --erase, its rows are deleted for good. The weights stay: a model
       is withdrawn, it does not unlearn.

    At the end it says who is champion now, and what to commit in git.

    Exit code 4: DVC's remote could not be reached. Run the same command again
    to finish the erasure.
    """
    from flows.cli.views import forgetting
    from flows.forgetting.follow_up import follow_up, policy_aliases
    from flows.forgetting.forget import carry_out, plan
    from flows.process.progress import reporter
    from tasks.promotion.ledger import open_ledger

    kind, value = one_of(prompt=prompt, text=text, source=source)
    workspace, console = workspace_folder(), standard_output()
    uri = tracking_uri(workspace)
    chosen, ledger = plan(workspace, kind, value, uri), open_ledger(ledger_uri(workspace))
    named = policy_aliases(chosen, ledger.entries(), uri)
    if not as_json:
        console.print(forgetting.show_plan(chosen, named, erase=erase))
    if not yes and (as_json or not sys.stdin.isatty()):
        if as_json:
            print_json({"plan": forgetting.plan_as_json(chosen, named), "done": None})
            return
        raise InputError(
            "nothing was done: there is no terminal to ask for confirmation",
            hint="check the list above, then run the command again with --yes",
        )
    if not yes and not typer.confirm("Forget this and erase its rows for good?" if erase else "Forget this?"):
        console.print("nothing was done")
        return
    say = reporter(quiet=as_json).say
    done = carry_out(chosen, workspace, uri, ledger, by=identity(by), erase=erase, say=say)
    after = follow_up(chosen, workspace, ledger)
    if as_json:
        print_json({"plan": forgetting.plan_as_json(chosen, named), "done": forgetting.forgotten_as_json(done, after)})
    else:
        console.print(forgetting.show_forgotten(chosen, done, after))
    if done.erased is not None and done.erased.unfinished:
        raise typer.Exit(exits.FAILED_STEP)
