"""Compare a run and the ledger with independent records of them ("witnesses").

A last commit that was forged together with its seal is consistent in itself, and so is a ledger whose last entries
were cut off. Only records kept elsewhere show it: the versions in MLflow's registry, the ledger, DVC's pointers, and
the tag ``raft.ledger`` of a registered model, which names the last entry that MLflow knows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from raft_core.audit.verification import Problem
from raft_core.errors import IntegrityError, RaftError, StepError
from raft_core.files.hashing import FileHashes
from raft_core.promotion.ledger import Entry, Ledger
from raft_core.records.policy_ref import PolicyRef
from raft_core.records.run import BASE, Run, read_commit
from tasks.tracking.aliases import hold_ledger, read_witnesses
from tasks.tracking.connection import database
from tasks.tracking.registry import Version, model_name, versions
from tasks.versioning.objects import check_pointers, find_stores

SHOWN = 3


def ask(ref: PolicyRef, workspace: Path, uri: str, ledger: Ledger, *, must_answer: bool) -> list[str]:
    """Raise IntegrityError if registry, ledger or DVC's pointers name another commit for ``ref`` or one before it.

    The same if the ledger lacks an entry that MLflow knows. Returns one sentence for each check that was not possible.
    With ``must_answer`` an unreachable MLflow is a StepError; a sqlite file that does not exist is only reported, since
    a clone has none. Nothing is written.
    """
    run, unseen, seen, registered = ref.run, list[str](), dict[str, str](), list[Version]()
    if (path := database(uri)) is not None and not path.exists():
        unseen.append(f"run {run.name} and the end of the ledger against MLflow: there is no MLflow database at {path}")
    else:
        try:
            seen, registered = read_witnesses(uri), versions(uri)
        except StepError as away:
            if must_answer:
                raise StepError(
                    f"MLflow cannot be reached to check {ref} and the end of the ledger",
                    got=away,
                    hint="wait until it can be reached, or pass --without-mlflow: then a ledger that was cut off and a "
                    "commit that was forged are not detected",
                ) from away
            unseen.append(f"run {run.name} and the end of the ledger against MLflow: {away.what}")
    try:
        entries = ledger.entries()  # after the tags: every entry that they name was in the ledger before
    except StepError as away:
        if must_answer:
            raise
        unseen.append(f"run {run.name} against the ledger: {away.what}")
        return unseen
    hold_ledger(seen, entries, {model_name(run)})
    problems = [
        *registry_problems([run], registered),
        *ledger_problems(run, entries),
        *_pointer_problems(ref, workspace),
    ]
    if wrong := [problem.message for problem in problems if (problem.iteration or 0) <= ref.iteration]:
        raise IntegrityError(
            f"run {run.name} contradicts other records of it: a commit was forged, or the run was made again under an "
            "old name",
            got="; ".join(wrong[:SHOWN]),
            expected="the commits that MLflow, the ledger and DVC's pointers name",
            hint=f"run raft lineage verify {run.name}, then restore the run from git, or align under another --name",
        )
    return unseen


def ask_ledger(models: Collection[str], uri: str, ledger: Ledger) -> None:
    """Raise IntegrityError if the ledger lacks an entry that MLflow knows, before an entry about ``models`` is written.

    An unreachable MLflow is ignored: this check is for rejections and withdrawals, which promote nothing.
    """
    seen: dict[str, str] = {}
    with suppress(StepError):
        seen = read_witnesses(uri)
    hold_ledger(seen, ledger.entries(), models)


def registry_problems(runs: Sequence[Run], found: Sequence[Version]) -> Iterator[Problem]:
    """Registered versions that were made from another commit than the one in this workspace."""
    by_name = {run.name: run for run in runs}
    for version in found:
        made = version.origin
        if (run := by_name.get(made.run)) is None:
            continue
        path = run.folder(made.iteration) / "commit.json"
        if (digest := _commit_digest(run, made.iteration)) != made.commit:
            name = f"{version.name} version {version.version}"
            message = f"{name} was registered from commit {made.commit}, but {path} is {digest}"
            yield Problem(made.iteration, "registry", path, message)


def ledger_problems(run: Run, entries: Sequence[Entry]) -> Iterator[Problem]:
    """Entries about another commit of this run than the one in this workspace; one problem per commit."""
    reported: set[tuple[int, str]] = set()
    for entry in entries:
        body: Mapping[str, object] = entry.body
        number, commit = body.get("iteration"), body.get("commit")
        if body.get("run") != run.name or not isinstance(number, int) or not isinstance(commit, str):
            continue
        path = run.folder(number) / "commit.json"
        if (number, commit) not in reported and (digest := _commit_digest(run, number)) != commit:
            reported.add((number, commit))
            message = f"entry {entry.number} of the ledger is about commit {commit}, but {path} is {digest}"
            yield Problem(number, "ledger", path, message)


def _pointer_problems(ref: PolicyRef, workspace: Path) -> Iterator[Problem]:
    stores, hashes = find_stores(workspace, remote=False), FileHashes()
    for number in range(BASE, ref.iteration + 1):
        if (commit := read_commit(ref.run, number)) is not None:
            yield from check_pointers(ref.run, commit, stores, hashes)


def _commit_digest(run: Run, iteration: int) -> str | None:
    try:
        commit = read_commit(run, iteration)
    except RaftError:
        return None
    return commit.digest if commit else None
