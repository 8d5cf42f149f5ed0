"""Bring an iteration's sets and checkpoint back, from the run, DVC's cache or its remote, every byte verified."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from raft_core.errors import InputError, IntegrityError
from raft_core.files.artifacts import digest_of
from raft_core.forgetting.erasure import TOMBSTONE, digests_since
from raft_core.records.collected import block_gc
from raft_core.records.run import Commit, Run, read_commit
from tasks.versioning.pointers import PAYLOADS, restore

SMALL = ("commit.json", "report.json", "finetune.json", TOMBSTONE)


@dataclass(frozen=True, slots=True)
class CheckedOut:
    """Where it lies now. ``restored``: payloads that were not here, or not sound."""

    folder: Path
    restored: tuple[str, ...]
    outputs: int


def checkout(run: Run, iteration: int, workspace: Path, to: Path | None = None) -> CheckedOut:
    """Make every output of a committed iteration lie in the run, or as a copy in ``to``, a folder that must not exist.

    Raises InputError for no such commit or an existing ``to``, StepError if a payload cannot be had, IntegrityError
    if it is not what was committed.
    """
    commit = read_commit(run, iteration)
    if commit is None:
        raise InputError(f"run {run.name} has no commit of iteration {iteration}", hint=f"see raft show {run.name}")
    if to is not None and to.exists():
        raise InputError(f"{to} exists", hint="name a folder that does not")
    with block_gc(run.path.parent):
        return _checkout(run, commit, workspace, to)


def _checkout(run: Run, commit: Commit, workspace: Path, to: Path | None) -> CheckedOut:
    restored = tuple(name for name in PAYLOADS if _bring(run, commit, name, workspace))
    folder = run.folder(commit.iteration)
    _verify(folder, folder, commit)
    if to is None:
        return CheckedOut(folder, restored, len(commit.outputs))
    aside = to.with_name(f".{to.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    for name in (*PAYLOADS, *SMALL):
        _copy(folder / name, aside / name)
    _verify(aside, folder, commit)
    aside.rename(to)
    return CheckedOut(to, restored, len(commit.outputs))


def _bring(run: Run, commit: Commit, payload: str, workspace: Path) -> bool:
    """Restore a payload of which something is missing or other bytes; whether that was needed."""
    folder = run.folder(commit.iteration)
    wanted = {
        name: digest
        for name, digest in digests_since(folder, commit.outputs).items()
        if name.split("/", 1)[0] == payload
    }
    if all((folder / name).exists() and digest_of(folder / name) == digest for name, digest in wanted.items()):
        return False
    pointer = folder / f"{payload}.dvc"
    if not pointer.exists():
        raise IntegrityError(
            f"{folder / payload} is not what was committed, and no pointer brings it back",
            expected=pointer,
            hint="restore the pointer from git, or the run from a copy",
        )
    restore(pointer, workspace)
    return True


def _verify(folder: Path, run_folder: Path, commit: Commit) -> None:
    for name, expected in digests_since(run_folder, commit.outputs).items():
        path = folder / name
        if not path.exists():
            raise IntegrityError(f"missing: {path}", expected=f"sha256 {expected}", hint="restore it from git")
        if (got := digest_of(path)) != expected:
            raise IntegrityError(
                f"changed bytes: {path}",
                got=f"sha256 {got}",
                expected=f"sha256 {expected}",
                hint="raft lineage verify names everything that is wrong",
            )


def _copy(source: Path, target: Path) -> None:
    """A copy of one's own: the run's files may share their bytes with others."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_copy_file, ignore=shutil.ignore_patterns(".*"))
    elif source.is_file():
        _copy_file(str(source), str(target))


def _copy_file(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    return target
