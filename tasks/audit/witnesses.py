"""What others have seen of a run and of the ledger, held against what lies here.

A last commit that was forged with its seal agrees with itself, and so does a ledger whose last entries are gone. Only
what lies elsewhere tells: the versions in MLflow's registry, the ledger, DVC's pointers, and the tag on a registered
model that names the last entry which MLflow has seen.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from raft_core.audit.verification import Problem
from raft_core.errors import IntegrityError, RaftError, StepError
from raft_core.files.hashing import FileHashes
from raft_core.promotion.ledger import Entry, Ledger
from raft_core.records.run import BASE, Run, read_commit
from tasks.tracking.aliases import hold_ledger, read_witnesses
from tasks.tracking.connection import database
from tasks.tracking.registry import Version, model_name, versions
from tasks.versioning.objects import check_pointers, find_stores

SHOWN = 3


def ask(run: Run, iteration: int, workspace: Path, uri: str, ledger: Ledger, *, must_answer: bool) -> list[str]:
    """Raise IntegrityError if registry, ledger or DVC's pointers know ``iteration``, or one before it, otherwise.

    The same for a ledger that lacks what MLflow has seen of it. Returns what could not be asked, in words. With
    ``must_answer`` an MLflow that is away is a StepError; a sqlite file that was never made is named, since a clone
    has none. Nothing is written.
    """
    unseen, seen, registered = list[str](), dict[str, str](), list[Version]()
    if (path := database(uri)) is not None and not path.exists():
        unseen.append(f"no MLflow database at {path}: nobody else has seen run {run.name}, nor how the ledger ends")
    else:
        try:
            seen, registered = read_witnesses(uri), versions(uri)
        except StepError as away:
            if must_answer:
                raise StepError(
                    "MLflow cannot be asked what it has seen of the ledger and of the run",
                    got=away,
                    hint="wait until it is back, or say --without-mlflow: then a ledger that was cut off, and a commit "
                    "that was forged, may pass",
                ) from away
            unseen.append(f"MLflow could not be asked about the ledger and run {run.name}: {away.what}")
    try:
        entries = ledger.entries()  # after the tags: what they name was in the ledger before
    except StepError as away:
        if must_answer:
            raise
        unseen.append(f"the ledger could not be asked: {away.what}")
        return unseen
    hold_ledger(seen, entries, {model_name(run)})
    problems = [
        *registry_problems([run], registered),
        *ledger_problems(run, entries),
        *_pointer_problems(run, iteration, workspace),
    ]
    if wrong := [problem.message for problem in problems if (problem.iteration or 0) <= iteration]:
        raise IntegrityError(
            f"run {run.name} is not the one that others have seen: it was forged, or made anew under an old name",
            got="; ".join(wrong[:SHOWN]),
            hint=f"raft lineage verify {run.name}; restore it from git, or align under another --name",
        )
    return unseen


def ask_ledger(models: Collection[str], uri: str, ledger: Ledger) -> None:
    """Raise IntegrityError for a ledger that lacks what MLflow has seen of it, before an entry about ``models``.

    An MLflow that is away is not waited for: this is for entries that only take away, a rejection or a withdrawal.
    """
    seen: dict[str, str] = {}
    with suppress(StepError):
        seen = read_witnesses(uri)
    hold_ledger(seen, ledger.entries(), models)


def registry_problems(runs: Sequence[Run], found: Sequence[Version]) -> Iterator[Problem]:
    """Registered versions that were made from another commit than the one that lies here."""
    by_name = {run.name: run for run in runs}
    for version in found:
        made = version.origin
        if (run := by_name.get(made.run)) is None:
            continue
        path = run.folder(made.iteration) / "commit.json"
        if (digest := _commit_digest(run, made.iteration)) != made.commit:
            message = (
                f"{version.name} version {version.version} was registered from commit {made.commit}, {path} is {digest}"
            )
            yield Problem(made.iteration, "registry", path, message)


def ledger_problems(run: Run, entries: Sequence[Entry]) -> Iterator[Problem]:
    """Entries about another commit of this run and iteration than the one that lies here; each commit is told once."""
    told: set[tuple[int, str]] = set()
    for entry in entries:
        body: Mapping[str, object] = entry.body
        number, commit = body.get("iteration"), body.get("commit")
        if body.get("run") != run.name or not isinstance(number, int) or not isinstance(commit, str):
            continue
        path = run.folder(number) / "commit.json"
        if (number, commit) not in told and (digest := _commit_digest(run, number)) != commit:
            told.add((number, commit))
            message = f"entry {entry.number} of the ledger is about commit {commit}, {path} is {digest}"
            yield Problem(number, "ledger", path, message)


def _pointer_problems(run: Run, iteration: int, workspace: Path) -> Iterator[Problem]:
    stores, hashes = find_stores(workspace, remote=False), FileHashes()
    for number in range(BASE, iteration + 1):
        if (commit := read_commit(run, number)) is not None:
            yield from check_pointers(run, commit, stores, hashes)


def _commit_digest(run: Run, iteration: int) -> str | None:
    try:
        commit = read_commit(run, iteration)
    except RaftError:
        return None
    return commit.digest if commit else None
