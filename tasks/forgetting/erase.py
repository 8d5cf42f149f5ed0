"""Erase rows from a run's tables and scratch, and from DVC's cache and remotes. The chain of commits stays intact.

The order is: write the tables without the rows beside the old ones, write the tombstone, rename. After a kill in
between ``raft lineage verify`` reports rows as returned, and the same call finishes the work.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raft_core.errors import RaftError, StepError
from raft_core.files.artifacts import file_digest, write_bytes
from raft_core.files.plain_json import parse_json
from raft_core.forgetting.erasure import Erased, Tombstone, aside_of, read_tombstone, unfinished, write_tombstone
from raft_core.forgetting.target_rows import Target, holds, matching_samples, parquet_files, write_without
from raft_core.records.run import BASE, Commit, Run, read_chain
from tasks.forgetting.erase_remote import erase_over_network, listed, naming
from tasks.versioning.objects import Stores, find_stores, objects
from tasks.versioning.pointers import restore, version_all

Say = Callable[[str], None]
KEPT_FIELDS = ("time", "kind", "step", "error")
"""Fields of an event whose texts RAFT chose itself, so they quote no prompt. ``error`` is the name of a class."""
MOST_TEXTS = 100
"""With more texts than this to look for, every message of an event log is cleared instead."""


@dataclass(slots=True)
class ErasedRows:
    """What was erased; mutable while the erasure runs.

    ``flow_runs``: flow runs in Prefect whose parameters were emptied. ``evidence``: removed keys of ``promotions/``.
    ``left``: what must be erased by hand. ``unfinished``: what could not be reached; the same call erases it later.
    """

    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    rows: int = 0
    objects: int = 0
    flow_runs: int = 0
    evidence: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)


def erase_run(run: Run, target: Target, because: str, workspace: Path, done: ErasedRows, say: Say) -> None:
    """Erase rows of every iteration of ``run``; the caller holds its lock. Idempotent."""
    chain = read_chain(run)
    for commit in chain:
        if erase_iteration(run, commit, target, because, workspace, done):
            label = "base" if commit.iteration == BASE else commit.iteration
            say(f"erased from {run.name}@{label}")
    _version_erased(run, chain, workspace, done)
    _erase_uncommitted(run, {commit.iteration for commit in chain}, target)


def _version_erased(run: Run, chain: Sequence[Commit], workspace: Path, done: ErasedRows) -> None:
    """Add the tables that lost rows, in this or an interrupted call, to DVC, and push what was not pushed yet."""
    folders = {commit.iteration: run.folder(commit.iteration) for commit in chain}
    erased = [n for n, f in folders.items() if (f / "tables.dvc").exists() and read_tombstone(f) is not None]
    if run.config.versioning.enabled and erased:
        versioned = version_all(run, erased, workspace, push=run.config.versioning.push)
        done.unfinished += sorted({one.warning for one in versioned.values() if one.warning})


def erase_iteration(run: Run, commit: Commit, target: Target, because: str, workspace: Path, done: ErasedRows) -> bool:
    """Rewrite the tables of a committed iteration without the rows of ``target``. True if any table had such rows."""
    folder = run.folder(commit.iteration)
    pointer = folder / "tables.dvc"
    if not (folder / "tables").is_dir() and pointer.exists():
        try:
            restore(pointer, workspace)
        except RaftError as error:
            done.left.append(f"{folder / 'tables'}: not on this machine, and it cannot be restored ({error.what})")
            return False
    erased: dict[str, Erased] = {}
    before, label = read_tombstone(folder), f"{run.name}@{commit.iteration}"
    if before is not None and _put_in_place(folder, before):  # an interrupted call left it
        done.tombstones[label] = before
    tables = [name for name in commit.outputs if name.startswith("tables/") and (folder / name).exists()]
    if target.text is not None or target.sources:  # not every row of a sample has its text or source
        samples = frozenset[str]().union(*(matching_samples(folder / name, target) for name in tables))
        target = replace(target, samples=samples)
    for name in tables:
        path, digest = folder / name, commit.outputs[name]
        aside = aside_of(path)
        if rows := write_without(path, target, aside):
            again = before is not None and name in before.outputs and before.outputs[name].now == file_digest(aside)
            erased[name] = Erased(digest, file_digest(aside), 0 if again else rows)
            done.rows += rows
    if erased:
        done.tombstones[label] = write_tombstone(folder, erased, [because])
        _put_in_place(folder, done.tombstones[label])
    return label in done.tombstones


def _put_in_place(folder: Path, tombstone: Tombstone) -> bool:
    """Rename the tables that the tombstone announces and remove validation reports. True if a table was renamed."""
    for report in folder.glob("validation_*.md"):
        report.unlink()
    waiting = [folder / name for name, erased in tombstone.outputs.items() if unfinished(folder / name, erased)]
    for path in waiting:
        aside_of(path).rename(path)
    return bool(waiting)


def erase_objects(workspace: Path, target: Target, done: ErasedRows, limit_s: float) -> None:
    """Remove every object with such rows from DVC's cache and remotes, and the directory listings that name one.

    A default remote that is not a folder gets ``limit_s`` seconds; other remotes that are not folders are left.
    """
    stores: Stores = find_stores(workspace, remote=True)
    for store in (stores.cache, stores.remote, *stores.others):
        if store is not None and store.is_dir():
            every = objects(store)
            listings = {path: listed(path.read_bytes()) for path in every if path.suffix == ".dir"}
            found = {path: _oid(path) for path in every if path not in listings and holds(path, target)}
            # listings first: after a kill in between no listing names a missing file, and the next call finds the rows
            for path in (*naming(listings, found.values()), *found):
                path.unlink()
            done.objects += len(found)
    if stores.network is None:
        done.left += stores.unseen
        return
    try:
        num_gone, damaged = erase_over_network(workspace, target, limit_s)
        done.objects += num_gone
        done.left += [f"{path}: a damaged table in the remote that cannot be read; remove it" for path in damaged]
    except StepError as error:
        done.unfinished.append(f"the remote {stores.network} may still hold its rows: {error}")


def _oid(path: Path) -> str:
    return path.parent.name + path.name


def _erase_uncommitted(run: Run, committed: set[int], target: Target) -> None:
    """Remove tables and shards of uncommitted iterations that hold such rows; resuming makes them again without."""
    folders = [run.path / "base", *sorted((run.path / "iterations").glob("*"))]
    for folder in folders:
        number = BASE if folder.name == "base" else int(folder.name) if folder.name.isdecimal() else None
        if number is None or number in committed:
            continue
        if any(holds(path, target) for path in parquet_files([folder / "tables", folder / "work"])):
            for name in ("tables", "work"):
                shutil.rmtree(folder / name, ignore_errors=True)


def erase_steps(runs: Path, tombstones: Iterable[Tombstone]) -> None:
    """Remove entries of the step index whose outputs lost rows: those bytes can no longer be reused."""
    was = {erased.was for tombstone in tombstones for erased in tombstone.outputs.values()}
    for entry in (runs / ".steps").glob("*.json"):
        if any(digest.encode() in entry.read_bytes() for digest in was):
            entry.unlink()


def erase_messages(run: Run, texts: Iterable[str]) -> None:
    """Blank every message in the event log that quotes one of ``texts``, as an error may have done."""
    wanted = [text for text in texts if text]
    path = run.path / "events.jsonl"
    if not path.exists() or not wanted:
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line if not _quotes(line, wanted) else _blanked(line) for line in lines]
    if kept != lines:
        write_bytes(path, b"".join(kept))


def _quotes(line: bytes, texts: list[str]) -> bool:
    if len(texts) > MOST_TEXTS:
        return b'"warning"' in line or b'"failed"' in line
    return any(json.dumps(text)[1:-1].encode() in line for text in texts)


def _blanked(line: bytes) -> bytes:
    """The event with its kind, time and numbers kept and every text replaced."""
    try:
        event: Mapping[str, Any] = parse_json(line)
    except ValueError:
        return b""
    plain = {
        key: value if key in KEPT_FIELDS or not isinstance(value, str | list | dict) else "(erased)"
        for key, value in event.items()
    }
    return json.dumps(plain).encode() + b"\n"
