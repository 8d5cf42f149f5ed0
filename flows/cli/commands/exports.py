"""``raft export …``: a model's records as an audit page, model card, ML-BOM or OpenLineage events; and signatures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.commands.shell import examples
from flows.process.environment import ledger_uri, tracking_uri, workspace_folder

if TYPE_CHECKING:
    from flows.exports.dossier import Dossier
    from raft_core.records.run import Run

app = typer.Typer(
    help="""Write a model's records for others: an audit page, a model card, an inventory.

    Everything is read from the run's folder and the ledger; nothing is sent
    anywhere. All files are verified first: the audit page shows problems, the
    other formats are refused if there are any.""",
    no_args_is_help=True,
    epilog=examples(
        ("raft export html first -o audit.html", "a page for an auditor"),
        ("raft export model-card first@2 -o README.md", "a Hugging Face model card"),
    ),
)

PolicyName = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN[@N]|MODEL",
        help="Iteration N of a run, or its best one; or a registered model.",
        show_default="the best iteration of the run that was last worked on",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="File to write.", show_default="print to standard output"),
]
Signed = Annotated[
    str, typer.Argument(metavar="RUN@N", help="The iteration; RUN alone means its best one. Or a registered model.")
]


@app.command("html", epilog=examples(("raft export html first@2 -o audit.html", "the model of iteration 2")))
def export_html(policy: PolicyName = None, out: Out = None) -> None:
    """Write a page for an auditor: how the model was made, measured and approved.

    One HTML file without scripts, which loads nothing from the network and
    can be printed. Problems that the verification finds are shown at its top.
    """
    from flows.exports.audit import audit_page

    _write(audit_page(_dossier(policy)), out)


@app.command("model-card", epilog=examples(("raft export model-card first@2 -o README.md", "the model of iteration 2")))
def export_model_card(policy: PolicyName = None, out: Out = None) -> None:
    """Write a Hugging Face model card (README.md).

    It states metadata, figures, training data, limits and digests. Refused if
    files of the model do not match their recorded digests.
    """
    from flows.exports.model_card import model_card

    _write(model_card(_dossier(policy, must_verify=True)), out)


@app.command("cyclonedx", epilog=examples(("raft export cyclonedx first@2 -o bom.json", "the model of iteration 2")))
def export_cyclonedx(policy: PolicyName = None, out: Out = None) -> None:
    """Write a CycloneDX 1.6 ML-BOM, an inventory of the model as JSON.

    It lists the model, its data sets and the libraries that made it, with
    digests and licences. Refused if files of the model do not match their
    recorded digests.
    """
    from flows.exports.bom import bom

    _write(bom(_dossier(policy, must_verify=True)), out)


@app.command(
    "openlineage", epilog=examples(("raft export openlineage first -o events.jsonl", "the best model of run first"))
)
def export_openlineage(policy: PolicyName = None, out: Out = None) -> None:
    r"""Write OpenLineage events, one JSON object per line.

    They describe every step from the base policy to the model, and name data
    sets by digest. Refused if files of the model do not match their recorded
    digests. Needs: pip install 'raft-mlops\[exports]'
    """
    from flows.exports.lineage_events import events

    _write(events(_dossier(policy, must_verify=True)), out)


@app.command(
    "sign",
    epilog=examples(
        ("openssl ecparam -name prime256v1 -genkey -noout -out key.pem", "make a key"),
        ("raft export sign first@2 --key key.pem --out first.sig", "sign the model of iteration 2"),
    ),
)
def export_sign(
    policy: Signed,
    key: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Private key: elliptic curve, PEM, without a password. It is only read."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write the signature to.")],
) -> None:
    r"""Sign the weights and the commit of an iteration with your own key.

    The commit names all earlier files by digest, so one signature covers the
    whole history of the model. All files are verified first. The signature is
    made with the package model-signing (OpenSSF); nothing is sent anywhere.
    Needs: pip install 'raft-mlops\[exports]'

    Exit code 3: the model was withdrawn.
    """
    from flows.cli.commands.shell import confirm_seen
    from flows.exports.signature import sign
    from raft_core.files.artifacts import file_digest
    from tasks.promotion.ledger import open_ledger

    run, iteration = _policy(policy)
    confirm_seen(run, iteration, workspace_folder())
    entries = open_ledger(ledger_uri(workspace_folder())).entries()
    names = sign(run, iteration, key, out, entries)
    typer.echo(f"{out}: {' and '.join(names)} of iteration {iteration} of run {run.name}, sha256 {file_digest(out)}")


@app.command(
    "verify-signature",
    epilog=examples(
        ("openssl ec -in key.pem -pubout -out public.pem", "make the public key"),
        ("raft export verify-signature first@2 first.sig --key public.pem", "check the signature"),
    ),
)
def export_verify_signature(
    policy: Signed,
    signature: Annotated[Path, typer.Argument(metavar="SIGNATURE", help="File that `raft export sign` wrote.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="Public key of the signer, PEM.")],
) -> None:
    r"""Check a signature against the key and the files on this machine.

    Needs: pip install 'raft-mlops\[exports]'

    Exit code 4: the signature was made with another key or for other files.
    """
    from flows.exports.signature import verify_signature

    run, iteration = _policy(policy)
    verify_signature(run, iteration, key, signature)
    typer.echo(f"{signature} is a valid signature of iteration {iteration} of run {run.name}")


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
    """Path of the initial policy; None if it is not prepared on this machine."""
    from raft_core.errors import ConfigError, ExampleError
    from raft_core.references import resolve

    try:
        return resolve(source)
    except (ExampleError, ConfigError):
        return None


def _write(text: str, out: Path | None) -> None:
    """Write ``text`` to a file, durably; or to standard output, in UTF-8."""
    import sys

    from raft_core.files.artifacts import write_bytes

    if out is None:
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
    else:
        write_bytes(out, text.encode())
        typer.echo(f"{out}: {len(text.encode()) / 1e3:,.0f} kB")
