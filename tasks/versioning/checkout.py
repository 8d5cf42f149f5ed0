"""Restore an iteration's tables and checkpoint from the run, DVC's cache or its remote, and verify every byte."""

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
    """The folder with the outputs. ``restored``: payloads that were missing or damaged before."""

    folder: Path
    restored: tuple[str, ...]
    outputs: int


def checkout(run: Run, iteration: int, workspace: Path, to: Path | None = None) -> CheckedOut:
    """Restore every output of a committed iteration in the run, and copy it to ``to``, which must not exist yet.

    Raises InputError if there is no such commit or ``to`` exists, StepError if a payload cannot be restored,
    IntegrityError if its bytes are not the committed ones.
    """
    commit = read_commit(run, iteration)
    if commit is None:
        raise InputError(
            f"run {run.name} has no committed iteration {iteration}", hint=f"raft show {run.name} lists its iterations"
        )
    if to is not None and to.exists():
        raise InputError(f"the folder {to} exists already", hint="name a folder that does not exist")
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
    """Restore a payload if files are missing or changed; returns whether it was necessary."""
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
            f"{folder / payload} is missing or changed, and cannot be restored without its DVC pointer",
            expected=pointer,
            hint="restore the pointer from git, or the run from a backup",
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
                hint="run raft lineage verify, which lists everything that is wrong",
            )


def _copy(source: Path, target: Path) -> None:
    """A real copy: the run's files may be hard links that share their bytes."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_copy_file, ignore=shutil.ignore_patterns(".*"))
    elif source.is_file():
        _copy_file(str(source), str(target))


def _copy_file(source: str, target: str) -> str:
    shutil.copyfile(source, target)
    return target
