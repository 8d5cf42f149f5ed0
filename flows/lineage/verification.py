"""Verify runs: their own bytes, DVC's stores, the versions in MLflow's registry, and the ledger."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from raft_core.audit.verification import Problem, Verification, unordered_erasures, verify_run
from raft_core.errors import IntegrityError, RaftError
from raft_core.files.hashing import FileHashes
from raft_core.promotion.ledger import Ledger
from raft_core.records.names import registered_name
from raft_core.records.run import BASE, Run, committed_iterations, read_commit, read_run
from raft_core.references import resolve


@dataclass(frozen=True, slots=True)
class Scope:
    """What is verified. ``rehash``: bytes, not only the chain of commits; ``remote``: objects in the remote too."""

    rehash: bool = True
    remote: bool = False


@dataclass(slots=True)
class Checked:
    """What was found; mutable during verification. ``others``: problems outside the runs' own folders."""

    runs: dict[str, Verification] = field(default_factory=dict)
    others: list[Problem] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    num_objects: int = 0
    num_bytes: int = 0
    seconds: float = 0.0

    @property
    def problems(self) -> list[Problem]:
        """Every problem."""
        return [*(problem for found in self.runs.values() for problem in found.problems), *self.others]

    def as_json(self) -> dict[str, Any]:
        """The document of ``raft lineage verify --json``."""
        return {
            "ok": not self.problems,
            "runs": {name: _plain(asdict(found)) for name, found in self.runs.items()},
            "problems": [_plain(asdict(problem)) for problem in self.others],
            "unseen": self.unseen,
            "objects": self.num_objects,
            "bytes": self.num_bytes,
            "seconds": round(self.seconds, 3),
        }


def verify(
    workspace: Path, paths: Sequence[Path], tracking_uri: str, scope: Scope = Scope(), ledger: Ledger | None = None
) -> Checked:
    """Verify the runs in ``paths`` and what DVC, MLflow and the ledger hold about them. Nothing is changed.

    Every problem is listed. What cannot be reached (tables or weights that are not on this machine, a remote that is
    not a folder, an unreachable MLflow) is listed as unseen, not as a problem.
    """
    start = time.monotonic()
    checked, hashes = Checked(), FileHashes()
    runs = []
    for path in paths:
        try:
            runs.append(run := read_run(path))
        except RaftError as error:
            checked.others.append(Problem(None, "config", path / "config.yaml", str(error)))
            continue
        checked.runs[run.name] = verify_run(run, rehash=scope.rehash, base_policy=_base_policy(run), hashes=hashes)
    if scope.rehash:
        _verify_stores(workspace, runs, scope, hashes, checked)
    _verify_registry(runs, tracking_uri, checked)
    _verify_ledger(runs, ledger, tracking_uri, checked)
    checked.num_bytes, checked.seconds = hashes.num_bytes, time.monotonic() - start
    return checked


def _base_policy(run: Run) -> Path | None:
    try:
        return resolve(run.config.policy.model)
    except RaftError:
        return None


def _verify_stores(workspace: Path, runs: Sequence[Run], scope: Scope, hashes: FileHashes, checked: Checked) -> None:
    from tasks.versioning.objects import check_objects, check_pointers, find_stores, objects

    stores = find_stores(workspace, remote=scope.remote)
    if any(run.config.versioning.enabled for run in runs):
        checked.unseen += stores.unseen
    for run in runs:
        damaged = {problem.path for problem in checked.runs[run.name].problems}
        for number in (BASE, *committed_iterations(run)):
            if any(path.is_relative_to(run.folder(number)) for path in damaged):
                continue
            commit = read_commit(run, number)
            if commit is not None:
                checked.others += check_pointers(run, commit, stores, hashes)
    for store in (stores.cache, stores.remote):
        if store is not None and store.is_dir():
            checked.others += check_objects(store, hashes)
            checked.num_objects += len(objects(store))


def _verify_registry(runs: Sequence[Run], tracking_uri: str, checked: Checked) -> None:
    """Compare with the commits that registered versions name; this detects a last commit forged with its seal."""
    from tasks.audit.witnesses import registry_problems
    from tasks.tracking.connection import database
    from tasks.tracking.registry import versions

    if (path := database(tracking_uri)) is not None and not path.exists():
        checked.unseen.append(f"registered versions: there is no MLflow database at {path}")
        return
    try:
        found = versions(tracking_uri)
    except RaftError as error:
        checked.unseen.append(f"registered versions: {error.what}")
        return
    checked.others += registry_problems(runs, found)


def _verify_ledger(runs: Sequence[Run], ledger: Ledger | None, tracking_uri: str, checked: Checked) -> None:
    """Check that the ledger has every erasure, names the same commits, and has every entry that MLflow knows."""
    from tasks.audit.witnesses import ledger_problems
    from tasks.tracking.aliases import hold_ledger, read_witnesses

    seen: dict[str, str] = {}
    with suppress(RaftError):  # an unreachable registry was already reported
        seen = read_witnesses(tracking_uri)
    try:
        entries = ledger.entries() if ledger is not None else []
    except RaftError as error:
        if not isinstance(error, IntegrityError):
            checked.unseen.append(f"the ledger: {error.what}")
            return
        checked.others.append(Problem(None, "ledger", Path("ledger"), str(error)))
        return
    try:
        if ledger is not None:
            hold_ledger(seen, entries, {registered_name(run.config) for run in runs})
    except IntegrityError as error:
        checked.others.append(Problem(None, "ledger", Path("ledger"), str(error)))
    for run in runs:
        checked.others += [*unordered_erasures(run, entries), *ledger_problems(run, entries)]


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """``facts`` with paths as text, also inside lists."""
    return dict(_items(facts))


def _items(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Path):
            yield name, str(value)
        elif isinstance(value, list | tuple):
            yield name, [_plain(item) if isinstance(item, Mapping) else item for item in value]
        else:
            yield name, value
