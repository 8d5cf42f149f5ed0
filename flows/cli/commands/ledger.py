"""``raft ledger …``: who promoted what, and does the chain hold?"""

from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import AsJson, print_json, standard_output
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder
from raft_core.errors import InputError

app = typer.Typer(help="The ledger of promotions.", invoke_without_command=True)


@app.callback()
def default(context: typer.Context, as_json: AsJson = False) -> None:
    """The ledger of promotions; without a further word it is shown."""
    if context.invoked_subcommand is None:
        show(as_json=as_json)
    elif as_json:
        word = context.invoked_subcommand
        raise InputError("--json stands before the word that it belongs to", hint=f"say raft ledger {word} --json")


@app.command()
def show(
    model: Annotated[str | None, typer.Option(help="Only this model's entries.")] = None, as_json: AsJson = False
) -> None:
    """Show every entry, oldest first; ★ marks a present champion."""
    from flows.cli.views.promotion import as_json as entry_json
    from flows.cli.views.promotion import show_ledger
    from tasks.promotion.ledger import open_ledger

    entries = [e for e in open_ledger(_uri()).entries() if model is None or e.model == model]
    if as_json:
        print_json([entry_json(entry) for entry in entries])
    elif entries:
        standard_output().print(show_ledger(entries))
    else:
        standard_output().print("no entry; promote a model: raft promote RUN", markup=False)


@app.command()
def verify(
    witness: Annotated[
        str | None, typer.Option("--last", help="A digest that was noted earlier: it must be in the chain.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that every entry follows the one before it and is as it was sealed, and that none is cut off at the end."""
    from raft_core.errors import IntegrityError, StepError
    from raft_core.promotion.ledger import last_digest
    from tasks.promotion.ledger import open_ledger
    from tasks.tracking.aliases import hold_ledger, read_witnesses

    try:
        witnesses = read_witnesses(tracking_uri(workspace_folder()))
    except StepError as away:
        exits.tell(f"warning: the end of the ledger is not held against MLflow: {away}")
        witnesses = {}
    entries = open_ledger(_uri()).entries()
    hold_ledger(witnesses, entries, () if entries else witnesses)  # an empty ledger may be one that was deleted
    if witness and not any(entry.digest.startswith(witness) for entry in entries):
        raise IntegrityError(
            "entries are missing at the end of the ledger",
            got=f"{len(entries)} entries, the last {last_digest(entries)}",
            expected=f"one with digest {witness}",
            hint="restore it from a copy",
        )
    if as_json:
        print_json({"ok": True, "entries": len(entries), "last": last_digest(entries)})
    else:
        typer.echo(f"the chain holds: {len(entries)} entries, the last is {last_digest(entries)}")


def _uri() -> str:
    return ledger_uri(workspace_folder())
