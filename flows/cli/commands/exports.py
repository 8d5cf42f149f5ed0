"""``raft export …``: a policy's records for an auditor, a catalogue, an inventory, a hub; and signatures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.process.environment import ledger_uri, tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.exports.dossier import Dossier
    from raft_core.records.run import Run

app = typer.Typer(help="Write a policy's records for others.", no_args_is_help=True)

PolicyName = Annotated[str | None, typer.Argument(metavar="[RUN[@N]|MODEL]", help="None: the latest run, its best.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="A file; none: standard output.")]


@app.command("html")
def export_html(policy: PolicyName = None, out: Out = None) -> None:
    """One page for an auditor: a single file without scripts or network, also for paper."""
    from flows.exports.audit import audit_page

    _write(audit_page(_dossier(policy)), out)


@app.command("model-card")
def export_model_card(policy: PolicyName = None, out: Out = None) -> None:
    """A Hugging Face model card (README.md): metadata, figures, data, limits, digests."""
    from flows.exports.model_card import model_card

    _write(model_card(_dossier(policy, must_verify=True)), out)


@app.command("cyclonedx")
def export_cyclonedx(policy: PolicyName = None, out: Out = None) -> None:
    """A CycloneDX ML-BOM: the model, its data, the libraries that made it, with digests and licences."""
    from flows.exports.bom import bom

    _write(bom(_dossier(policy, must_verify=True)), out)


@app.command("openlineage")
def export_openlineage(policy: PolicyName = None, out: Out = None) -> None:
    """OpenLineage events, one a line: every step from the base to the policy, datasets by digest."""
    from flows.exports.lineage_events import events

    _write(events(_dossier(policy, must_verify=True)), out)


@app.command("sign")
def export_sign(
    policy: Annotated[str, typer.Argument(metavar="RUN@N", help="The iteration whose policy is signed.")],
    key: Annotated[Path, typer.Option(help="A private key, PEM, of an elliptic curve.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The signature, a file of its own.")],
) -> None:
    """Sign an iteration's policy and commit with a local key (model-signing)."""
    from flows.cli.commands.shell import confirm_seen
    from flows.exports.signature import sign
    from raft_core.files.artifacts import file_digest
    from tasks.promotion.ledger import open_ledger

    run, iteration = _policy(policy)
    confirm_seen(run, iteration, workspace_folder())
    entries = open_ledger(ledger_uri(workspace_folder())).entries()
    names = sign(run, iteration, key, out, entries)
    typer.echo(f"{out}: {' and '.join(names)} of iteration {iteration} of run {run.name}, sha256 {file_digest(out)}")


@app.command("verify-signature")
def export_verify_signature(
    policy: Annotated[str, typer.Argument(metavar="RUN@N", help="The iteration whose policy was signed.")],
    signature: Annotated[Path, typer.Argument(metavar="SIGNATURE", help="What raft export sign wrote.")],
    key: Annotated[Path, typer.Option(help="The public key, PEM.")],
) -> None:
    """Verify a signature: the key's, over the very files that lie there. Exit code 4 if it does not hold."""
    from flows.exports.signature import verify_signature

    run, iteration = _policy(policy)
    verify_signature(run, iteration, key, signature)
    typer.echo(f"{signature} holds for iteration {iteration} of run {run.name}")


def _policy(reference: str) -> "tuple[Run, int]":
    from flows.models import find_policy
    from raft_core.records.overview import view_run
    from raft_core.records.run import BASE

    workspace = workspace_folder()
    run, iteration = find_policy(workspace, reference, tracking_uri(workspace))
    best = view_run(run).best
    return run, iteration if iteration is not None else BASE if best is None else best


def _dossier(reference: str | None, *, must_verify: bool = False) -> "Dossier":
    """The records of the policy that ``reference`` names. Raises IntegrityError if they must verify and do not."""
    from flows.exports.dossier import open_dossier
    from flows.models import find_policy
    from tasks.promotion.ledger import open_ledger

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
    from raft_core.errors import ConfigError, ExampleError
    from raft_core.examples import resolve

    try:
        return resolve(source)
    except (ExampleError, ConfigError):
        return None


def _write(text: str, out: Path | None) -> None:
    """To a file, durably; or to standard output as bytes of UTF-8."""
    import sys

    from raft_core.files.artifacts import write_bytes

    if out is None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:
        write_bytes(out, text.encode())
        typer.echo(f"{out}: {len(text.encode()) / 1e3:,.0f} kB")
