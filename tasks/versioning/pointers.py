"""Version an iteration's tables and checkpoint with DVC: two small pointers beside them, and a remote.

Committed files are not touched: DVC's cache gets hard links of them (copies if the file system has no links), so a
checkpoint is stored once. The linked files are read-only from then on. ``dvc add`` would remove each file and link it
back, and a kill in between would lose it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException

from raft_core.errors import IntegrityError, StepError
from raft_core.files.artifacts import digest_of, folder_files
from raft_core.files.plain_json import read_object
from raft_core.forgetting.erasure import digests_since
from raft_core.records.run import Run, read_chain
from tasks.versioning.listing import READ_ONLY, files_of, pointer_md5
from tasks.versioning.remote import PULL_LIMIT_S, dvc_message, push_to_remote, transfer
from tasks.versioning.repository import opened

PAYLOADS = ("tables", "policy")
CONFIG = """[core]
    analytics = false
    check_update = false
    remote = local
[cache]
    type = "reflink,hardlink,copy"
['remote "local"']
    url = ../.dvc-remote
    verify = true
"""
"""``.dvc/config`` of a new repository: the remote is a folder beside ``.dvc``."""

IGNORED = "/.dvc-remote/\n/mlartifacts/\n/mlruns/\n/promotions/\n/runs/.steps/\n/runs/.index/\n/runs/**/work/\n"
"""``.dvcignore`` of a new repository: folders with many files that DVC should not search for pointers."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """``pointers``: payload → md5 in DVC's cache. ``warning``: why the push failed."""

    pointers: Mapping[str, str]
    pushed: bool
    warning: str | None = None


def version(run: Run, iteration: int, workspace: Path, *, push: bool) -> Versioned:
    """``version_all`` of one iteration."""
    return version_all(run, [iteration], workspace, push=push)[iteration]


def version_all(
    run: Run, iterations: Sequence[int], workspace: Path, *, push: bool, look: bool = False
) -> dict[int, Versioned]:
    """Add committed iterations to DVC, with ``tables.dvc`` and ``policy.dvc`` beside the payloads, and push them.

    Idempotent. The push covers every pointer of the run that the remote lacks according to the event log (with
    ``look``: according to the remote itself), so it also repeats earlier pushes that failed.
    Raises StepError if DVC cannot add the files; an unreachable remote is only a warning.
    """
    folders = {iteration: run.folder(iteration).resolve() for iteration in iterations}
    for folder in folders.values():
        if not folder.is_relative_to(workspace.resolve()):
            raise StepError(
                f"run {run.name} is outside the workspace",
                got=folder,
                expected=f"a folder below {workspace}",
                hint="run raft in the folder that contains runs/, or set RAFT_WORKSPACE to it",
            )
    with _opened(workspace) as repo:
        _add(repo, [path for folder in folders.values() for name in PAYLOADS if (path := folder / name).is_dir()])
        warning = push_to_remote(repo, run, _pointers(run), look=look) if push else None
    return {
        iteration: Versioned(_md5s(folder), pushed=push and warning is None, warning=warning)
        for iteration, folder in folders.items()
    }


def _md5s(folder: Path) -> dict[str, str]:
    return {name: pointer_md5(path) for name in PAYLOADS if (path := folder / f"{name}.dvc").exists()}


def restore(pointer: Path, workspace: Path) -> Path:
    """Restore the payload of ``pointer`` (…/policy.dvc) from the cache or the remote, and verify every byte.

    A changed payload is replaced, and damaged objects of the cache are fetched again. Returns the payload's path.
    Raises StepError if it cannot be restored, IntegrityError if its bytes are not the committed ones.
    """
    payload, expected = pointer.with_suffix(""), pointer_md5(pointer)
    _check_place(payload, workspace)
    if not payload.is_dir() or content_md5(payload) != expected:
        with _opened(workspace) as repo:
            _drop_damaged(Path(repo.cache.local.path), expected)
            shutil.rmtree(payload, ignore_errors=True)
            try:
                transfer(repo, "pull", [pointer], PULL_LIMIT_S)
            except (DvcException, OSError, StepError) as error:
                raise StepError(
                    f"cannot restore the files of {pointer}",
                    got=dvc_message(error),
                    hint="check that DVC's remote is available: `dvc remote list` shows it",
                ) from error
    if (got := content_md5(payload)) != expected:
        raise IntegrityError(
            f"changed bytes: {payload}",
            got=f"md5 {got}",
            expected=f"md5 {expected}",
            hint="restore the object from another copy of DVC's remote",
        )
    _check_commit(payload)
    return payload


def ensure_repository(workspace: Path) -> None:
    """Make ``workspace`` a DVC repository with a local remote, unless it is inside one already.

    Like ``dvc init``, but atomic (two runs may start at the same time), and without changing git's index.
    """
    folders = (workspace.resolve(), *workspace.resolve().parents)
    if any((folder / ".dvc").is_dir() for folder in folders):
        return
    in_git = any((folder / ".git").exists() for folder in folders)
    remote = workspace / ".dvc-remote"
    remote.mkdir(exist_ok=True)
    (remote / ".gitignore").write_text("*\n")
    aside = workspace / f".dvc.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)  # left by a killed process with this id: they repeat in containers
    aside.mkdir()
    if not (workspace / ".dvcignore").exists():
        (workspace / ".dvcignore").write_text(IGNORED)
    (aside / "config").write_text(CONFIG if in_git else CONFIG.replace("[core]\n", "[core]\n    no_scm = true\n"))
    (aside / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    try:
        aside.rename(workspace / ".dvc")
    except OSError:
        shutil.rmtree(aside)
        if not (workspace / ".dvc").is_dir():
            raise


def content_md5(payload: Path, hashed: Callable[[Path], str] | None = None) -> str:
    """DVC's name of the folder ``payload``: the md5 of its listing, computed from the files.

    ``hashed``: returns the md5 of a file, if it is known already.
    """
    files = {file.relative_to(payload).as_posix(): file for file in folder_files(payload)}
    listing = [{"md5": (hashed or _file_md5)(file), "relpath": name} for name, file in sorted(files.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


# -- the cache ---------------------------------------------------------------------------------


def _add(repo: Any, payloads: Sequence[Path]) -> None:
    """Hash every file and link it into the cache, then let DVC find it there and write the pointers."""
    if not payloads:
        return
    targets = [str(path) for path in payloads]
    try:
        for stage in repo.add(targets, no_commit=True, relink=False):
            output = stage.outs[0]
            for key, _, file_hash in output.obj:
                _link(Path(output.fs_path, *key), Path(repo.cache.local.oid_to_path(file_hash.value)))
        repo.add(targets, relink=False)
    except (DvcException, OSError) as error:
        raise StepError(
            f"DVC could not add {', '.join(targets)}",
            got=dvc_message(error),
            hint="check disk space, and what `dvc doctor` and `dvc status` report in the workspace",
        ) from error


def _link(file: Path, cached: Path) -> None:
    """Make ``cached`` a hard link of ``file``; if that is impossible, ``dvc add`` copies it later."""
    if cached.exists():
        return
    cached.parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(file, cached)
        cached.chmod(READ_ONLY)


def _drop_damaged(cache: Path, md5: str) -> None:
    """Remove damaged objects of the folder ``md5`` from the cache; DVC would trust them, since they are read-only."""
    listing = cache / md5[:2] / md5[2:]
    if not listing.exists():
        return
    if _file_md5(listing) != md5.removesuffix(".dir"):
        listing.unlink()
        return
    for name in files_of(listing.read_bytes(), listing).values():
        cached = cache / name[:2] / name[2:]
        if cached.exists() and _file_md5(cached) != name:
            cached.unlink()


def _pointers(run: Run) -> dict[tuple[str, str], Path]:
    """(path in the run, md5) → pointer, for all commits."""
    folders = [run.folder(commit.iteration) for commit in read_chain(run)]
    paths = [path for folder in folders for name in PAYLOADS if (path := folder / f"{name}.dvc").exists()]
    return {(str(path.relative_to(run.path)), pointer_md5(path)): path for path in paths}


@contextmanager
def _opened(workspace: Path) -> Iterator[Any]:
    """The DVC repository of ``workspace``; waits for its lock instead of giving up after 3 s."""
    with ExitStack() as stack:
        try:
            ensure_repository(workspace)
            repo = stack.enter_context(opened(workspace, wait=True))
        except (DvcException, OSError) as error:
            raise StepError(
                f"cannot open the DVC repository of {workspace}",
                got=dvc_message(error),
                hint="check what `dvc doctor` reports",
            ) from error
        yield repo


def _check_place(payload: Path, workspace: Path) -> None:
    """Reject symbolic links in a run, which would write a payload's files elsewhere."""
    if payload.is_symlink() or not payload.parent.resolve().is_relative_to(workspace.resolve()):
        raise IntegrityError(
            f"{payload} leads out of the workspace",
            got=payload.resolve(),
            expected=f"a folder below {workspace}",
            hint="remove the symbolic link",
        )


def _check_commit(payload: Path) -> None:
    """Compare a restored payload with the sha256 digests of the commit beside it, if there is one."""
    path = payload.parent / "commit.json"
    if not path.exists():
        return
    try:
        outputs = read_object(path)["outputs"]
    except (OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"cannot read the commit {path}", got=error, hint="restore it from git") from None
    for name, expected in digests_since(payload.parent, outputs).items():
        output = payload.parent / name
        if output.is_relative_to(payload) and (got := digest_of(output)) != expected:
            raise IntegrityError(
                f"changed bytes: {output}",
                got=f"sha256 {got}",
                expected=f"sha256 {expected}",
                hint="restore pointer and commit from git: they do not belong together",
            )


def _file_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
