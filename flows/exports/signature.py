"""Signatures by the ``model-signing`` package (OpenSSF): an iteration's policy folder and its commit, by a local key.

The commit names the commit before it and every file of its iteration by digest, so one signature vouches for the
whole chain. Nothing is sent anywhere.
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

    Everything that the commit names is hashed first: what does not verify is not signed, nor what lost rows by an
    erasure that is not in ``entries`` of the ledger. Raises IntegrityError then, GateStop for a policy that was
    withdrawn, or trained from one that was, InputError for a key that cannot be used, ConfigError without the package.
    """
    signing, hashing = _package("signing"), _package("hashing")
    commit = _commit(run, iteration)
    if gone := find_withdrawal(entries, PolicyRef(run, iteration, commit)):
        raise GateStop(f"{gone[1]} of the ledger", got=gone[0].body.get("reason"), hint="name another policy")
    verify_outputs(run, commit)
    if unordered := [p for p in unordered_erasures(run, entries) if p.iteration == iteration]:
        raise IntegrityError(unordered[0].message, hint="see raft lineage verify")
    folder = run.folder(iteration)
    if not key.is_file():
        raise InputError(f"no such key: {key}", hint="openssl ecparam -name prime256v1 -genkey -noout -out key.pem")
    out.parent.mkdir(parents=True, exist_ok=True)
    config = signing.Config().set_hashing_config(_hashing(hashing, folder))
    try:
        config.use_elliptic_key_signer(private_key=key).sign(folder, out)
    except (ValueError, TypeError, OSError) as error:
        raise InputError(
            f"{key} cannot sign",
            got=error,
            expected="a private key of an elliptic curve, PEM, without a password",
            hint="openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        ) from error
    return [name for name in SIGNED if (folder / name).exists()]


def verify_signature(run: Run, iteration: int, public_key: Path, signature: Path) -> None:
    """Raise IntegrityError unless ``signature`` is the key's and the files are those that were signed.

    Nothing else is read: it holds on a clone that has only ``policy/``.
    """
    verifying, hashing = _package("verifying"), _package("hashing")
    _commit(run, iteration)
    folder = run.folder(iteration)
    for path in (public_key, signature):
        if not path.is_file():
            raise InputError(f"no such file: {path}", hint="name the public key, and what raft export sign wrote")
    config = verifying.Config().set_hashing_config(_hashing(hashing, folder))
    try:
        config.use_elliptic_key_verifier(public_key=public_key).verify(folder, signature)
    except Exception as error:  # the package raises many kinds; each means that it does not hold
        raise IntegrityError(
            f"the signature of iteration {iteration} of run {run.name} does not hold",
            got=f"{type(error).__name__}: {error}",
            expected=f"policy/ and commit.json as {signature} vouches for them",
            hint="restore the files (dvc pull, git), or ask who signed for the right key",
        ) from error


def _commit(run: Run, iteration: int) -> Commit:
    commit = read_commit(run, iteration)
    if commit is None or iteration == BASE or "policy" not in commit.outputs:
        raise InputError(
            f"iteration {iteration} of run {run.name} made no policy",
            expected="an iteration that is committed",
            hint="name one: RUN@N",
        )
    return commit


def _hashing(hashing: ModuleType, folder: Path) -> object:
    """Of an iteration's folder only what is signed: tables may lie elsewhere, and are named by the commit."""
    others = [path for path in sorted(folder.iterdir()) if path.name not in SIGNED]
    return hashing.Config().set_ignored_paths(paths=others, ignore_git_paths=False)


def _package(module: str) -> ModuleType:
    from importlib import import_module

    try:
        return import_module(f"model_signing.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "signatures need the model-signing package", got=error, hint="pip install 'raft-mlops[exports]'"
        ) from None
