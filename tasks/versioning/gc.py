"""Remove weights that nothing needs: from run folders, DVC's cache and, if asked, DVC's remote.

A tombstone is written before weights are removed, so that a second gc finishes what a killed one left. Tables, reports,
commits and their digests stay, and the chain verifies as before.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dvc.exceptions import DvcException

from raft_core.errors import IntegrityError, StepError
from raft_core.files.plain_json import read_json
from raft_core.promotion.ledger import check_chain, current
from raft_core.promotion.requests import open_requests
from raft_core.records.collected import read_tombstone, write_tombstone
from raft_core.records.retention import Retention, RunFacts, Verdict, verdicts
from raft_core.records.run import BASE, Run, read_chain, read_events, read_run, record_event
from tasks.loop.decide import decide, is_finished
from tasks.promotion.ledger import open_ledger
from tasks.tracking.registry import versions
from tasks.versioning.listing import FILE_MD5, pointer_md5
from tasks.versioning.repository import opened


@dataclass(frozen=True, slots=True)
class Removable:
    """A policy that may be removed. ``paths``: its files in the run's folder; ``md5``: its folder in DVC, if any."""

    run: Run
    iteration: int
    digest: str
    paths: tuple[Path, ...]
    md5: str | None


@dataclass(frozen=True, slots=True)
class GcPlan:
    """What gc removes, and why the rest stays. ``objects``: objects in DVC that only the removable policies need.

    ``freed``: number of bytes, without files that are hard links of kept ones.
    """

    verdicts: tuple[Verdict, ...]
    removable: tuple[Removable, ...]
    objects: tuple[str, ...]
    scratch: tuple[Path, ...]
    freed: int


def plan(workspace: Path, named: Mapping[str, str], rules: Retention, caches: Sequence[Path] = ()) -> GcPlan:
    """Decide for every run of ``workspace`` what can be removed. Changes nothing.

    ``named``: commit digest → why it is needed (registered, champion…); ``caches``: unused folders elsewhere.
    Raises IntegrityError if a chain does not verify: nothing is removed while records are in doubt.
    """
    runs = {path.name: read_run(path) for path in _run_paths(workspace)}
    decided = verdicts([_facts(run) for run in runs.values()], named, rules)
    going = {(v.run, v.iteration) for v in decided if v.kept is None}
    removable = [item for v in decided if v.kept is None and (item := _removable(runs[v.run], v.iteration))]
    needed = _objects_of(workspace, _kept_pointers(workspace, runs, going))
    unneeded = _objects_of(workspace, [g.md5 for g in removable if g.md5]) - needed
    scratch = [*_scratch(runs.values()), *caches]
    objects = [path for name in unneeded if (path := cached(workspace, name)).exists()]
    freed = _bytes([*scratch, *objects, *(path for item in removable for path in item.paths)])
    return GcPlan(tuple(decided), tuple(removable), tuple(sorted(unneeded)), tuple(scratch), freed)


def remove(workspace: Path, found: GcPlan, *, remote: bool) -> None:
    """Remove what ``plan`` found. The caller holds ``no_live_run``. Raises StepError if the remote fails."""
    for item in found.removable:
        write_tombstone(
            item.run.folder(item.iteration), {"policy": item.digest}, {"policy": item.md5} if item.md5 else {}
        )
        record_event(item.run, "collected", iteration=item.iteration, output="policy", digest=item.digest)
    if found.objects and remote:
        _empty_remote(workspace, found.objects)
    for item in found.removable:
        for path in item.paths:
            _delete(path)
    for name in sorted(found.objects, key=lambda name: name.endswith(".dir")):  # the listing last: it names the others
        cached(workspace, name).unlink(missing_ok=True)
    for path in found.scratch:
        _delete(path)


def cached(workspace: Path, md5: str) -> Path:
    """The path of an object in the workspace's own DVC cache. A cache elsewhere may be shared and is left alone."""
    return workspace / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def _run_paths(workspace: Path) -> Iterator[Path]:
    runs = workspace / "runs"
    for path in sorted(runs.iterdir()) if runs.is_dir() else ():
        if not path.name.startswith(".") and (path / "config.yaml").is_file():
            yield path


def _facts(run: Run) -> RunFacts:
    chain = read_chain(run)
    decision = decide(run)
    finished = bool(decision and not decision.go_on and is_finished(run))
    best = decision.best if decision else None
    policies = {c.iteration: c.digest for c in chain if c.iteration != BASE and "policy" in c.outputs}
    return RunFacts(run.name, max(0.0, time.time() - _worked_on(run)), finished, best, policies)


def _worked_on(run: Run) -> float:
    """When the run was last worked on, in seconds since the epoch. Does not count gc."""
    times = [event["time"] for event in read_events(run) if event["kind"] != "collected"]
    return datetime.fromisoformat(times[-1]).timestamp() if times else (run.path / "config.yaml").stat().st_mtime


def _removable(run: Run, iteration: int) -> Removable | None:
    """What is left of a policy that may be removed; None if nothing is."""
    folder = run.folder(iteration)
    pointer, tombstone = folder / "policy.dvc", read_tombstone(folder)
    md5 = pointer_md5(pointer) if pointer.exists() else tombstone.get("dvc", {}).get("policy")
    paths = [folder / "policy", pointer, run.path / "merged" / f"{iteration:03d}"]
    there = tuple(path for path in paths if path.exists())
    digest = next(c.outputs["policy"] for c in read_chain(run) if c.iteration == iteration)
    in_cache = md5 is not None and cached(run.path.parents[1], md5).exists()
    return Removable(run, iteration, digest, there, md5) if there or in_cache else None


def _kept_pointers(workspace: Path, runs: Mapping[str, Run], going: set[tuple[str, int]]) -> list[str]:
    """DVC's hashes of everything that pointers and dvc.lock in the workspace keep, without the removable policies."""
    left_out = {runs[name].folder(iteration) / "policy.dvc" for name, iteration in going}
    pointers = [p for p in (workspace / "runs").rglob("*.dvc") if p not in left_out]
    kept = [pointer_md5(pointer) for pointer in pointers if pointer.is_file()]
    return kept + _kept_beside_runs(workspace)


def _kept_beside_runs(workspace: Path) -> list[str]:
    """DVC's hashes of users' own data, in any folder: pointers and outputs of pipelines."""
    if not (workspace / ".dvc").is_dir():
        return []
    runs = workspace / "runs"
    try:
        with opened(workspace) as repo:
            outs = [out for out in repo.index.outs if not Path(out.stage.path).is_relative_to(runs.resolve())]
            return [str(out.hash_info.value) for out in outs if out.hash_info]
    except (DvcException, OSError) as error:
        raise StepError(
            f"DVC cannot list what else it keeps in {workspace}, so nothing was removed",
            got=error,
            hint="fix what `dvc data status` reports",
        ) from error


def _objects_of(workspace: Path, folders: Sequence[str]) -> set[str]:
    """The md5 names of the objects of these DVC folders, including their listings."""
    names: set[str] = set(folders)
    for md5 in folders:
        listing = cached(workspace, md5)
        if md5.endswith(".dir") and listing.exists():
            try:
                found = {str(entry["md5"]) for entry in read_json(listing)}
                if strange := [name for name in found if not FILE_MD5.fullmatch(name)]:
                    raise ValueError(f"not an md5: {strange[0]!r}")
                names |= found
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(
                    f"damaged object in DVC's cache: {listing}", got=error, hint="remove it, then run dvc fetch"
                ) from error
    return names


def _scratch(runs: Iterable[Run]) -> Iterator[Path]:
    """Scratch folders of committed iterations; unfinished iterations keep theirs."""
    for run in runs:
        for commit in read_chain(run):
            if (work := run.folder(commit.iteration) / "work").exists():
                yield work


def _empty_remote(workspace: Path, objects: Sequence[str]) -> None:
    try:
        with opened(workspace) as repo:
            store = repo.cloud.get_remote_odb()
            for path in map(store.oid_to_path, objects):
                if store.fs.exists(path):
                    store.fs.remove(path)
    except (DvcException, OSError) as error:
        raise StepError(
            f"cannot remove {len(objects)} objects from DVC's remote of {workspace}",
            got=error,
            hint="make the remote available and run raft gc again, or set remote=false",
        ) from error


def _bytes(paths: Sequence[Path]) -> int:
    """Bytes that removing ``paths`` frees. A file counts once, and only if all its hard links are removed."""
    links: dict[tuple[int, int], list[int]] = {}
    for path in paths:
        for file in path.rglob("*") if path.is_dir() else [path]:
            if file.is_file() and not file.is_symlink():
                stat = file.stat()
                entry = links.setdefault((stat.st_dev, stat.st_ino), [stat.st_size, stat.st_nlink])
                entry[1] -= 1
    return sum(size for size, left in links.values() if left <= 0)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        aside = path.with_name(f".{path.name}.collected")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)  # readers see the whole folder or none of it
        shutil.rmtree(aside)
    else:
        with suppress(FileNotFoundError):
            path.unlink()


def needed_commits(tracking_uri: str, ledger_uri: str) -> dict[str, str]:
    """Commit digest → why its weights must stay.

    Raises StepError if the registry or the ledger cannot be reached, IntegrityError if the ledger does not verify.
    """
    needed = {v.origin.commit: f"registered as {v.name} version {v.version}" for v in reversed(versions(tracking_uri))}
    entries = open_ledger(ledger_uri).entries()
    check_chain(entries, ledger_uri)
    waiting = open_requests(entries)
    for model in sorted({entry.model for entry in entries}):
        standing = current(entries, model)
        champion = standing.champion.commit if standing.champion else None
        for request in waiting:
            if (
                request.model == model and request.body["champion"] == champion
            ):  # otherwise it cannot be approved any more
                needed[request.body["commit"]] = f"waits for approval as {model}"
        for alias, holder in (("previous", standing.previous), ("champion", standing.champion)):
            if holder is not None:
                needed[holder.commit] = f"{alias} of {model}"
    return needed
