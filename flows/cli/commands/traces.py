"""``raft lineage find``, ``explain``, ``forget``: from a prompt, a sample, a source or a text to what it touched."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import AsJson, By, print_json, standard_output
from flows.process.environment import identity, ledger_uri, tracking_uri, workspace_folder
from raft_core.errors import InputError

if TYPE_CHECKING:
    from raft_core.audit.trace import By as Kind

app = typer.Typer()

Most = Annotated[int, typer.Option("-n", min=1, help="How many prompts and samples to list.")]
ByText = Annotated[str | None, typer.Option("--text", help="A part of a prompt or of a selected completion.")]
ByPrompt = Annotated[str | None, typer.Option("--prompt", metavar="ID", help="A prompt_id, or its first digits.")]
BySample = Annotated[str | None, typer.Option("--sample", metavar="ID", help="A sample_id, or its first digits.")]
BySource = Annotated[str | None, typer.Option("--source", metavar="NAME", help="A source of prompts or samples.")]


@app.command()
def find(
    text: ByText = None,
    prompt: ByPrompt = None,
    sample: BySample = None,
    source: BySource = None,
    most: Most = 12,
    as_json: AsJson = False,
) -> None:
    """Which models were trained on this? Which samples of it were selected, when, with which rewards?"""
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
            "one thing at a time",
            got=", ".join(f"--{name}" for name in given) or "nothing",
            expected=f"one of {', '.join(f'--{name}' for name in values)}",
            hint="name what to look for",
        )
    ((name, value),) = given.items()
    return name, value  # type: ignore[return-value]


@app.command()
def explain(
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help="A sample_id, or its first digits.")],
    run: Annotated[str | None, typer.Option(metavar="RUN[@N]", help="Where, if several iterations hold it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Why was this sample selected, or dropped? Its scores, its rivals, the checks, and the rule."""
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
        standard_output().print(f"the same sample lies in {others} (--run names one)", markup=False, style="dim")


@app.command()
def forget(
    prompt: ByPrompt = None,
    text: ByText = None,
    source: BySource = None,
    erase: Annotated[bool, typer.Option("--erase", help="Also remove the rows everywhere, for good.")] = False,
    by: By = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """A prompt or a source must go: exclude it from later runs and withdraw the models that were trained on it.

    What it touched is listed first; nothing is done before you agree. Exit code 4 if DVC's remote was out of reach:
    the same command finishes the erasure.
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
        raise InputError("nothing was done: nobody is here to ask", hint="look at the list, then add --yes")
    if not yes and not typer.confirm("Erase this for good?" if erase else "Forget this?"):
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
