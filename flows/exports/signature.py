"""Signatures by the ``model-signing`` package (OpenSSF): an iteration's policy folder and its commit, by a local key.

The commit names the commit before it and every file of its iteration by digest, so one signature covers the whole
chain. Nothing is sent over the network.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from raft_core.audit.verification import unordered_erasures
from raft_core.audit.withdrawn import find_withdrawal
from raft_core.errors import ConfigError, GateStop, InputError, IntegrityError
from raft_core.promotion.ledger import Entry
from raft_core.records.policy_ref import PolicyRef
from raft_core.records.run import BASE, Commit, Run, read_commit, verify_outputs

SIGNED = ("policy", "commit.json")


def sign(run: Run, iteration: int, key: Path, out: Path, entries: Sequence[Entry] = ()) -> list[str]:
    """Sign ``policy/`` and ``commit.json`` with the private key (PEM, elliptic curve); returns the names signed.

    Hashes every file that the commit names first. Raises IntegrityError if one differs, or if rows were erased
    without an entry in the ledger's ``entries``; GateStop if the policy, or one that it was trained from, was
    withdrawn; InputError for a key that cannot be used; ConfigError if model-signing is not installed.
    """
    signing, hashing = _package("signing"), _package("hashing")
    commit = _commit(run, iteration)
    if gone := find_withdrawal(entries, PolicyRef(run, iteration, commit)):
        raise GateStop(
            f"{gone[1]} of the ledger: it is not signed",
            got=gone[0].body.get("reason"),
            expected="a policy that was not withdrawn",
            hint="sign another policy; raft ledger lists the withdrawals",
        )
    verify_outputs(run, commit)
    if unordered := [p for p in unordered_erasures(run, entries) if p.iteration == iteration]:
        raise IntegrityError(
            unordered[0].message,
            expected="an entry in the ledger for each erasure",
            hint=f"raft lineage verify {run.name}",
        )
    folder = run.folder(iteration)
    if not key.is_file():
        raise InputError(
            f"cannot find the private key {key}", hint="openssl ecparam -name prime256v1 -genkey -noout -out key.pem"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    config = signing.Config().set_hashing_config(_hashing(hashing, folder))
    try:
        config.use_elliptic_key_signer(private_key=key).sign(folder, out)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"cannot sign with the key {key}",
            got=error,
            expected="an elliptic-curve private key in PEM format, without a password",
            hint="openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        ) from error
    return [name for name in SIGNED if (folder / name).exists()]


def verify_signature(run: Run, iteration: int, public_key: Path, signature: Path) -> None:
    """Raise IntegrityError unless ``signature`` was made with this key over these files.

    Reads only ``policy/``, ``commit.json``, the key and the signature.
    """
    verifying, hashing = _package("verifying"), _package("hashing")
    _commit(run, iteration)
    folder = run.folder(iteration)
    for path in (public_key, signature):
        if not path.is_file():
            raise InputError(
                f"cannot find {path}", hint="give the public key as --key, and the file that raft export sign wrote"
            )
    config = verifying.Config().set_hashing_config(_hashing(hashing, folder))
    try:
        config.use_elliptic_key_verifier(public_key=public_key).verify(folder, signature)
    except Exception as error:  # the package raises many types; each means an invalid signature
        raise IntegrityError(
            f"the signature {signature} of iteration {iteration} of run {run.name} is not valid",
            got=f"{type(error).__name__}: {error}",
            expected=f"policy/ and commit.json in {folder} as they were signed, and the key that signed them",
            hint="restore the files (dvc pull, git checkout), or ask the signer for the right public key",
        ) from error


def _commit(run: Run, iteration: int) -> Commit:
    commit = read_commit(run, iteration)
    if commit is None or iteration == BASE or "policy" not in commit.outputs:
        raise InputError(
            f"{'the base' if iteration == BASE else f'iteration {iteration}'} of run {run.name} has no policy to sign",
            expected="a committed iteration that trained a policy",
            hint=f"name one as RUN@N; raft show {run.name} lists them",
        )
    return commit


def _hashing(hashing: ModuleType, folder: Path) -> object:
    """Hashes only what is signed: tables may be absent, and the commit has their digests."""
    others = [path for path in sorted(folder.iterdir()) if path.name not in SIGNED]
    return hashing.Config().set_ignored_paths(paths=others, ignore_git_paths=False)


def _package(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "raft export sign and verify-signature need the package model-signing",
            got=error,
            hint="pip install 'raft-mlops[exports]'",
        ) from None
