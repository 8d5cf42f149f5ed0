"""Everything that is known about one policy, read once from the records of its run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from flows.text import number
from raft_core.audit.lineage import Lineage, Link, lineage
from raft_core.audit.verification import Verification, unordered_erasures, verify_run
from raft_core.audit.withdrawn import find_withdrawal
from raft_core.errors import IntegrityError
from raft_core.files.plain_json import MAX_BYTES, MAX_LOG_BYTES, read_object
from raft_core.promotion.ledger import Entry
from raft_core.records.names import registered_name
from raft_core.records.overview import RunView, view_run
from raft_core.records.policy_ref import policy_ref
from raft_core.records.run import BASE, Commit, Run, read_chain, read_events
from raft_core.records.tables import SCHEMAS, read_table
from raft_core.redaction import redacted, redacted_text

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """The ledger entry that withdrew a policy, or a policy that it was trained from; ``statement`` says which."""

    entry: Entry
    statement: str

    @property
    def reason(self) -> str:
        """The reason in the ledger, with secrets removed."""
        return redacted_text(str(self.entry.body.get("reason") or "no reason was given"))

    @property
    def notice(self) -> str:
        """The first line of every export."""
        return f"WITHDRAWN by entry {self.entry.number} of the ledger: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dossier:
    """The records of a run, seen from the policy that ``iteration`` made.

    ``chain`` and ``reports`` hold every commit of the run, base first, also those after ``iteration``;
    ``lineage`` goes from ``iteration`` back to the base. ``entries``: ledger entries about any of its policies.
    ``withdrawal``: None unless the policy, or one that it was trained from, was withdrawn.
    """

    run: Run
    iteration: int
    lineage: Lineage
    chain: Sequence[Commit]
    reports: Sequence[Row]
    view: RunView
    verification: Verification
    entries: Sequence[Entry]
    withdrawal: Withdrawal | None = None

    @property
    def link(self) -> Link:
        """The commit of the policy itself."""
        return self.lineage.links[0]

    @property
    def base(self) -> Link:
        """The root of the chain."""
        return self.lineage.links[-1]

    @property
    def commit(self) -> Commit:
        """The commit of the policy itself, with its whole content."""
        return self.chain[self.iteration + 1]

    @property
    def report(self) -> Row:
        """The scorecard of the policy."""
        return self.reports[self.iteration + 1]

    @property
    def model_name(self) -> str:
        """Name of the model in the registry."""
        return registered_name(self.run.config)

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, without secrets."""
        plain: dict[str, Any] = redacted(self.run.config.model_dump(mode="json"))
        return plain

    def require_verified(self) -> None:
        """Raise IntegrityError if a commit or file is not what the records say: such a policy must not be published."""
        if not self.verification.ok:
            problems = self.verification.problems
            raise IntegrityError(
                f"run {self.run.name} fails verification: {problems[0].message}",
                got=f"{len(problems)} problem{'s' if len(problems) > 1 else ''}",
                expected="every commit and file as recorded",
                hint=f"raft lineage verify {self.run.name}; or raft export html, whose page lists the problems",
            )

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The events of one kind; empty on a clone that has only the commits."""
        return read_events(self.run, kind)

    def table(self, iteration: int, name: str, columns: Sequence[str]) -> pa.Table | None:
        """Columns of a committed table; None if it is not on this machine or was never written.

        Raises IntegrityError for a file that is not that table.
        """
        path = self.run.table(iteration, name)
        if f"tables/{name}.parquet" not in self.chain[iteration + 1].outputs or not path.is_file():
            return None
        return read_table(path, SCHEMAS[name], list(columns))

    def training_log(self, iteration: int) -> list[Row]:
        """One row per optimiser step: step, loss, learning_rate, grad_norm."""
        path = self.run.folder(iteration) / "finetune.json"
        return list(_json(path, MAX_LOG_BYTES).get("log", ())) if path.is_file() else []


def open_dossier(
    run: Run, iteration: int | None, *, entries: Sequence[Entry] = (), resolve: Callable[[str], Path | None]
) -> Dossier:
    """Read the records of a run and hash every file again. ``iteration`` None: the best of the run.

    ``entries``: the ledger, which lists every erasure. ``resolve`` finds the initial policy (None: not on this
    machine). Problems are in ``verification``; only a chain that cannot be followed at all raises IntegrityError.
    """
    links = lineage(run, iteration)
    chain = read_chain(run)
    chosen = links.links[0].iteration
    source = links.links[-1].policy.source
    found = verify_run(run, rehash=True, base_policy=resolve(source) if source else None)
    gone = find_withdrawal(entries, policy_ref(run, chosen))
    return Dossier(
        run=run,
        iteration=chosen,
        lineage=links,
        chain=chain,
        reports=[_json(run.folder(commit.iteration) / "report.json") for commit in chain],
        view=view_run(run),
        verification=replace(found, problems=(*found.problems, *unordered_erasures(run, entries))),
        entries=[e for e in entries if _concerns(e, chain) or (gone is not None and e == gone[0])],
        withdrawal=Withdrawal(*gone) if gone else None,
    )


def label(iteration: int) -> str:
    """``base``, or ``iteration N``."""
    return "base" if iteration == BASE else f"iteration {iteration}"


def counted(link: Link, name: str) -> str:
    """A count of the commit, and how many of its rows were erased later: ``48 (1 erased)``."""
    erased = link.counts.erased.get(name, 0)
    return number(getattr(link.counts, name), 0) + (f" ({erased:,} erased)" if erased else "")


def _concerns(entry: Entry, chain: Sequence[Commit]) -> bool:
    """Whether a ledger entry names a commit or policy of the chain, anywhere in its body."""
    named = {commit.digest for commit in chain} | {str(commit.content["policy"]["identity"]) for commit in chain}
    return not named.isdisjoint(_strings(entry.body))


def _strings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return {text for part in inner for text in _strings(part)}


def _json(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    try:
        document = read_object(path, most)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"cannot read {path}", got=error, expected="a JSON object", hint="restore it from git"
        ) from error
    return document
