"""A scheduled check of all records: every chain of commits, and the bytes of the commits that were hashed longest ago.

The commits that were hashed are noted in ``audits.jsonl`` of the workspace, so each sweep takes others: with a share of
0.1 every byte is hashed again within ten sweeps.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from raft_core.audit.verification import unordered_erasures, verify_run
from raft_core.errors import IntegrityError, RaftError
from raft_core.files.plain_json import parse_object, read_lines
from raft_core.promotion.ledger import Entry, Ledger
from raft_core.records.run import Commit, Run, read_chain, read_run, verify_outputs

LOG = "audits.jsonl"


@dataclass(frozen=True, slots=True)
class Audit:
    """What a sweep found. ``rehashed``: run and digest of each commit that was hashed; ``problems``: one line each;
    ``unseen``: how many outputs are not on this machine.
    """

    num_runs: int
    num_commits: int
    rehashed: tuple[str, ...]
    problems: tuple[str, ...]
    unseen: int


def sweep(workspace: Path, share: float, ledger: Ledger) -> Audit:
    """Check every chain of ``workspace``, hash the outputs of ``share`` (0 to 1) of the commits, and note which.

    Every erasure must be in ``ledger``. Problems are returned, not raised.
    """
    problems: list[str] = []
    unseen = 0
    known: list[tuple[Run, Commit]] = []
    entries: Sequence[Entry] | None = None
    try:
        entries = ledger.entries()
    except RaftError as error:
        problems.append(f"the ledger: {error.what}")
    paths = [p for p in sorted((workspace / "runs").glob("[!.]*")) if (p / "config.yaml").is_file()]
    for path in paths:
        try:
            run = read_run(path)
            found = verify_run(run, rehash=False)
            unordered = unordered_erasures(run, entries) if entries is not None else []
            problems += [f"{run.name}: {problem.message}" for problem in (*found.problems, *unordered)]
            unseen += len(found.unseen)
            known += [(run, commit) for commit in read_chain(run)]
        except RaftError as error:
            problems.append(f"{path.name}: {error.what}")
    before = _last_looked(workspace / LOG)
    known.sort(key=lambda item: (before.get(_key(*item), ""), _key(*item)))
    chosen = known[: math.ceil(share * len(known))]
    for run, commit in chosen:
        problems += [fault for fault in _faults(run, commit) if fault not in problems]
    audit = Audit(len(paths), len(known), tuple(_key(*item) for item in chosen), tuple(problems), unseen)
    _remember(workspace / LOG, audit)
    return audit


def _faults(run: Run, commit: Commit) -> Iterator[str]:
    """The first output whose bytes differ; missing outputs were already reported by the check of the chain."""
    there = {name: digest for name, digest in commit.outputs.items() if (run.folder(commit.iteration) / name).exists()}
    try:
        verify_outputs(run, Commit(commit.digest, {**commit.content, "outputs": there}))
    except (IntegrityError, OSError) as error:
        yield f"{run.name}: {error}".replace("\n  ", "; ")


def _key(run: Run, commit: Commit) -> str:
    """Run and commit, because runs of one configuration have the same commits, each with its own files."""
    return f"{run.name} {commit.digest}"


def _last_looked(log: Path) -> Mapping[str, str]:
    """Key of a commit → when it was last hashed."""
    looked: dict[str, str] = {}
    for line in read_lines(log):
        try:
            entry = parse_object(line)
            looked |= dict.fromkeys(entry["commits"], entry["time"])
        except (ValueError, KeyError, TypeError):
            continue  # a line that a kill cut off
    return looked


def _remember(log: Path, audit: Audit) -> None:
    entry = {"time": datetime.now(UTC).isoformat(), "commits": audit.rehashed, "problems": audit.problems}
    with log.open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps(entry) + "\n")  # starts a new line even after an incomplete one
