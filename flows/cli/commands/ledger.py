"""``raft ledger …``: who promoted which model, and whether the record is unchanged."""

from typing import Annotated

import typer

from flows.cli import exits
from flows.cli.commands.shell import AsJson, examples, print_json, standard_output
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder
from raft_core.errors import InputError

app = typer.Typer(invoke_without_command=True)


@app.callback(
    epilog=examples(
        ("raft ledger", "every entry, oldest first"),
        ("raft ledger show --model raft-tiny", "the entries of one model"),
        ("raft ledger verify", "check that nothing was changed or removed"),
    )
)
def default(context: typer.Context, as_json: AsJson = False) -> None:
    """Show or verify the ledger: who promoted which model, when and why.

    Without a command, `raft ledger` does the same as `raft ledger show`. The
    ledger is a chain of entries, each sealed by the digest of the one before.
    It is kept where the environment variable RAFT_LEDGER says (a file, or
    postgresql://...), else in ledger.jsonl in the workspace.
    """
    if context.invoked_subcommand is None:
        show(as_json=as_json)
    elif as_json:
        command = f"raft ledger {context.invoked_subcommand}"
        raise InputError(f"--json must follow {command}", got="raft ledger --json", hint=f"{command} --json")


@app.command(
    epilog=examples(
        ("raft ledger show", "every entry"),
        ("raft ledger show --model raft-tiny --json", "one model's entries, for a script"),
    )
)
def show(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="Show only the entries of this registered model.", show_default="all models"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the entries of the ledger, oldest first.

    One row per entry: its number, when it was made, what was done
    (requested, approved, promoted, refused, rejected, rolled_back, withdrawn,
    erased), the model and its policy RUN@N, by whom and why. A star marks the
    current champion of each model.
    """
    from flows.cli.views.promotion import as_json as entry_json
    from flows.cli.views.promotion import show_ledger
    from tasks.promotion.ledger import open_ledger

    entries = [e for e in open_ledger(_uri()).entries() if model is None or e.model == model]
    if as_json:
        print_json([entry_json(entry) for entry in entries])
    elif entries:
        standard_output().print(show_ledger(entries))
    else:
        standard_output().print("the ledger has no entries yet; to promote a model: raft promote RUN", markup=False)


@app.command(
    epilog=examples(
        ("raft ledger verify", "check the whole chain"),
        ("raft ledger verify --last 5f3a9c", "and that an entry noted earlier is still there"),
    )
)
def verify(
    witness: Annotated[
        str | None,
        typer.Option(
            "--last", metavar="DIGEST", help="Digest (or its first digits) of an entry that must be in the ledger."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check that no entry of the ledger was changed or removed.

    Each entry must match its digest and follow the entry before it, and the
    last entries that MLflow has recorded must be there. Prints the number of
    entries and the digest of the last one; note it and give it to --last
    later. Exit code 4: the ledger was changed.
    """
    from raft_core.errors import IntegrityError, StepError
    from raft_core.promotion.ledger import last_digest
    from tasks.promotion.ledger import open_ledger
    from tasks.tracking.aliases import hold_ledger, read_witnesses

    try:
        witnesses = read_witnesses(tracking_uri(workspace_folder()))
    except StepError as error:
        exits.tell(f"warning: the end of the ledger was not compared with MLflow: {error}")
        witnesses = {}
    entries = open_ledger(_uri()).entries()
    hold_ledger(witnesses, entries, () if entries else witnesses)  # an empty ledger may be one that was deleted
    if witness and not any(entry.digest.startswith(witness) for entry in entries):
        raise IntegrityError(
            "entries are missing at the end of the ledger",
            got=f"entries: {len(entries)}, the last {last_digest(entries)}",
            expected=f"an entry with digest {witness}",
            hint="restore the ledger from a backup",
        )
    if as_json:
        print_json({"ok": True, "entries": len(entries), "last": last_digest(entries)})
    else:
        typer.echo(f"the chain is intact: entries: {len(entries)}, the last is {last_digest(entries)}")


def _uri() -> str:
    return ledger_uri(workspace_folder())
