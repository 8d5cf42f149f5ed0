"""``raft export …``: a policy's records for an auditor, a catalogue, an inventory, a hub; and signatures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.shell import ledger_uri, tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.exports.dossier import Dossier

app = typer.Typer(help="Write a policy's records for others.", no_args_is_help=True)

PolicyName = Annotated[str | None, typer.Argument(metavar="[RUN[@N]|MODEL]", help="None: the latest run, its best.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A file; none: standard output.")]


@app.command("html")
def export_html(policy: PolicyName = None, out: Out = None) -> None:
    """One page for an auditor: a single file without scripts or network, also for paper."""
    from flows.exports.audit import audit_page

    _write(audit_page(_dossier(policy)), out)


def _dossier(reference: str | None, *, must_verify: bool = False) -> "Dossier":
    """The records of the policy that ``reference`` names. Raises IntegrityError if they must verify and do not."""
    from flows.exports.dossier import open_dossier
    from flows.models import find_policy
    from tasks.ledger import open_ledger

    workspace = workspace_folder()
    run, iteration = find_policy(workspace, reference, tracking_uri(workspace))
    dossier = open_dossier(
        run, iteration, entries=open_ledger(ledger_uri(workspace)).entries(), resolve=_initial_policy
    )
    if must_verify:
        dossier.require_verified()
    return dossier


def _initial_policy(source: str) -> Path | None:
    """Where the initial policy lies; None if it is not prepared on this machine."""
    from raft_core.embedded import resolve
    from raft_core.errors import ConfigError, PartsError

    try:
        return resolve(source)
    except (PartsError, ConfigError):
        return None


def _write(text: str, out: Path | None) -> None:
    """To a file, durably; or to standard output as bytes of UTF-8."""
    import sys

    from raft_core.records.artifacts import write_bytes

    if out is None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:
        write_bytes(out, text.encode())
        typer.echo(f"{out}: {len(text.encode()) / 1e3:,.0f} kB")
