"""Verify DVC's stores: objects against the md5 in their names, pointers against the commit beside them.

Reads only. DVC itself trusts read-only objects, so it would push and pull a tampered one without noticing.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException

from raft_core.audit.verification import Problem
from raft_core.errors import IntegrityError
from raft_core.files.hashing import FileHashes
from raft_core.forgetting.erasure import digests_since
from raft_core.records.run import Commit, Run
from tasks.versioning.listing import files_of, pointer_md5
from tasks.versioning.pointers import PAYLOADS, content_md5
from tasks.versioning.repository import opened

_NAME = re.compile(r"[0-9a-f]{2}/[0-9a-f]{30}(\.dir)?")


@dataclass(frozen=True, slots=True)
class Stores:
    """Folders of objects named by md5. ``remote``: the default remote, if it is a folder on this machine.

    ``unseen``: which stores could not be checked, and why. ``network``: the address of a remote that is not a folder.
    """

    cache: Path | None = None
    remote: Path | None = None
    unseen: tuple[str, ...] = ()
    network: str | None = None
    others: tuple[Path, ...] = ()
    """Folders of remotes that are not the default, such as the old one after a move."""


def find_stores(workspace: Path, *, remote: bool) -> Stores:
    """DVC's stores of ``workspace``; empty if DVC is not used there. ``remote``: look for remotes too."""
    folders = (workspace.resolve(), *workspace.resolve().parents)
    if not any((folder / ".dvc").is_dir() for folder in folders):
        return Stores(unseen=(f"no DVC repository in {workspace}",))
    try:
        with opened(workspace) as repo:
            cache = Path(repo.cache.local.path)
            if not remote:
                return Stores(cache)
            try:
                store = repo.cloud.get_remote_odb(command="raft")
            except DvcException as error:
                return Stores(cache, unseen=(f"the remote: {str(error).splitlines()[0]}",))
            others = tuple(path for path in _remote_folders(repo) if path != Path(store.path))
            if store.fs.protocol != "local":
                address = store.fs.unstrip_protocol(store.path)
                return Stores(cache, None, (f"the remote {address}: not a folder on this machine",), address, others)
            there = Path(store.path)
            unseen = () if there.is_dir() else (f"the remote {there}: no such folder",)
            return Stores(cache, there if there.is_dir() else None, unseen, others=others)
    except (DvcException, OSError) as error:
        return Stores(unseen=(f"DVC's stores of {workspace}: {error}",))


def _remote_folders(repo: Any) -> Iterator[Path]:
    for name in repo.config["remote"]:
        with suppress(DvcException):
            store = repo.cloud.get_remote_odb(name, command="raft")
            if store.fs.protocol == "local" and Path(store.path).is_dir():
                yield Path(store.path)


def objects(store: Path) -> list[Path]:
    """All objects of a store, sorted by name."""
    files = (path for path in store.glob("??/*") if _NAME.fullmatch(path.relative_to(store).as_posix()))
    return sorted(path for path in files if path.is_file())


def check_objects(store: Path, hashes: FileHashes) -> Iterator[Problem]:
    """Find objects whose bytes do not match the md5 in their name."""
    found = objects(store)
    hashes.prime(found, "md5")
    for path in found:
        expected = path.parent.name + path.name.removesuffix(".dir")
        try:
            got = hashes.md5(path)
        except OSError as error:
            yield Problem(None, "unreadable", path, f"cannot be read: {path}: {error}")
            continue
        if got != expected:
            hint = "try: remove it; dvc pull or dvc push restores it from a store that has it"
            yield Problem(None, "object", path, f"damaged DVC object: {path} has md5 {got}; {hint}")


def check_pointers(run: Run, commit: Commit, stores: Stores, hashes: FileHashes) -> Iterator[Problem]:
    """Find pointers of a committed iteration that lead to other bytes than the commit names.

    Compares with the payload beside the pointer if it is there, otherwise with the objects of a store. Call it for
    payloads whose bytes are as committed: ``verify_run`` reports changed files.
    """
    folder = run.folder(commit.iteration)
    for payload in PAYLOADS:
        pointer = folder / f"{payload}.dvc"
        if not pointer.is_file():
            continue
        try:
            md5 = pointer_md5(pointer)
            if (folder / payload).is_dir():
                fault = (
                    None if content_md5(folder / payload, hashes.md5) == md5 else "the files beside it have another md5"
                )
            else:
                fault = _stored_fault(md5, _below(payload, digests_since(folder, commit.outputs)), stores, hashes)
        except (IntegrityError, OSError) as error:
            yield Problem(commit.iteration, "pointer", pointer, str(error))
            continue
        if fault:
            message = f"a pointer to other bytes: {pointer} names md5 {md5}; {fault}"
            yield Problem(commit.iteration, "pointer", pointer, message)


def _below(payload: str, outputs: Mapping[str, str]) -> dict[str, str]:
    """The outputs inside a payload by their path in it; the payload's own digest under ""."""
    return {
        name.removeprefix(payload).lstrip("/"): digest
        for name, digest in outputs.items()
        if name == payload or name.startswith(f"{payload}/")
    }


def _stored_fault(md5: str, expected: Mapping[str, str], stores: Stores, hashes: FileHashes) -> str | None:
    """How the objects that a pointer names differ from the commit; None if they do not, or no store has all of them."""
    for store in (stores.cache, stores.remote):
        listing = store / md5[:2] / md5[2:] if store else None
        if store is None or listing is None or not listing.is_file():
            continue
        try:
            entries = files_of(listing.read_bytes(), listing)
        except IntegrityError as error:
            return f"{error.what} ({error.got})"
        files = {name: store / value[:2] / value[2:] for name, value in entries.items()}
        if not all(path.is_file() for path in files.values()):
            continue
        digests = {name: hashes.sha256(path) for name, path in files.items()}
        wrong = [
            name for name, digest in expected.items() if (digests.get(name) if name else _folder(digests)) != digest
        ]
        names = ", ".join(name or "the folder" for name in sorted(wrong))
        return f"in {store} the bytes differ for {names}" if wrong else None
    return None


def _folder(digests: Mapping[str, str]) -> str:
    """``folder_digest`` from file names and digests, for files stored elsewhere."""
    from hashlib import sha256

    return sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()
