"""DVC's stores held against what names them: objects against their own names, pointers against the commit beside them.

Reads only. DVC itself believes a read-only object, and a tampered one travels on without a word.
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
    """Folders of objects by md5. ``remote``: of the default remote, where it is a folder; ``unseen``: why not.

    ``network``: the address of a remote that is no folder of this machine.
    """

    cache: Path | None = None
    remote: Path | None = None
    unseen: tuple[str, ...] = ()
    network: str | None = None
    others: tuple[Path, ...] = ()
    """Folders of remotes that are not the default one: a store that was moved leaves its old one behind."""


def find_stores(workspace: Path, *, remote: bool) -> Stores:
    """DVC's stores of ``workspace``; none where DVC is not used. The remote only if asked for."""
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
                return Stores(cache, None, (f"the remote {address}: it is no folder of this machine",), address, others)
            there = Path(store.path)
            told = () if there.is_dir() else (f"the remote {there}: it is not there",)
            return Stores(cache, there if there.is_dir() else None, told, others=others)
    except (DvcException, OSError) as error:
        return Stores(unseen=(f"DVC's stores of {workspace}: {error}",))


def _remote_folders(repo: Any) -> Iterator[Path]:
    for name in repo.config["remote"]:
        with suppress(DvcException):
            store = repo.cloud.get_remote_odb(name, command="raft")
            if store.fs.protocol == "local" and Path(store.path).is_dir():
                yield Path(store.path)


def objects(store: Path) -> list[Path]:
    """Every object of a store, by name."""
    files = (path for path in store.glob("??/*") if _NAME.fullmatch(path.relative_to(store).as_posix()))
    return sorted(path for path in files if path.is_file())


def check_objects(store: Path, hashes: FileHashes) -> Iterator[Problem]:
    """Objects whose bytes are not what their name, an md5, says."""
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
            do = "remove it; dvc pull or dvc push brings a sound one from where there is one"
            yield Problem(None, "object", path, f"damaged object of DVC: {path}, md5 {got}; {do}")


def check_pointers(run: Run, commit: Commit, stores: Stores, hashes: FileHashes) -> Iterator[Problem]:
    """Pointers of a committed iteration that lead to other bytes than the commit names.

    Where the payload lies here its own bytes are asked, else the objects of a store. Call it for payloads whose
    bytes are as committed: a changed file is another problem, told by ``verify_run``.
    """
    folder = run.folder(commit.iteration)
    for payload in PAYLOADS:
        pointer = folder / f"{payload}.dvc"
        if not pointer.is_file():
            continue
        try:
            md5 = pointer_md5(pointer)
            if (folder / payload).is_dir():
                fault = None if content_md5(folder / payload, hashes.md5) == md5 else "the files beside it have another"
            else:
                fault = _stored_fault(md5, _below(payload, digests_since(folder, commit.outputs)), stores, hashes)
        except (IntegrityError, OSError) as error:
            yield Problem(commit.iteration, "pointer", pointer, str(error))
            continue
        if fault:
            message = f"a pointer to other bytes: {pointer} names md5 {md5}; {fault}"
            yield Problem(commit.iteration, "pointer", pointer, message)


def _below(payload: str, outputs: Mapping[str, str]) -> dict[str, str]:
    """The outputs inside a payload, by their name in it; the folder's own digest under ""."""
    return {
        name.removeprefix(payload).lstrip("/"): digest
        for name, digest in outputs.items()
        if name == payload or name.startswith(f"{payload}/")
    }


def _stored_fault(md5: str, expected: Mapping[str, str], stores: Stores, hashes: FileHashes) -> str | None:
    """Why the objects that a pointer names are not what was committed; None also where no store has them all."""
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
        return f"there {', '.join(name or 'the folder' for name in sorted(wrong))} has other bytes" if wrong else None
    return None


def _folder(digests: Mapping[str, str]) -> str:
    """``folder_digest`` of files that lie elsewhere, by their names and digests."""
    from hashlib import sha256

    return sha256("".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()).hexdigest()
