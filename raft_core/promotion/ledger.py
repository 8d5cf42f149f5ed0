"""The ledger: who requested, approved, promoted, rolled back or withdrew which model, in one order.

It is append-only and hash-chained: every entry names the digest of the entry before it, so a changed, removed or
inserted entry is detected. (Entries cut off at the end are detected only with a digest that is kept elsewhere;
MLflow's tags hold one.) A body names a model by ``commit`` (sha256 of the iteration's ``commit.json``) and ``policy``
(identity of the weights), never by a version number.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from raft_core.errors import IntegrityError, LedgerMovedError
from raft_core.files.artifacts import fsync_folder, json_digest
from raft_core.files.locks import lock_open_file
from raft_core.files.plain_json import open_regular, parse_object
from raft_core.records.policy_ref import policy_name

Kind = Literal["requested", "approved", "rejected", "promoted", "refused", "rolled_back", "withdrawn", "erased"]
KINDS: tuple[str, ...] = get_args(Kind)
GENESIS = "0" * 64
"""``previous`` of the first entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. ``number`` counts from 1; ``time`` is ISO 8601 in UTC; ``body`` is JSON-able."""

    number: int
    previous: str
    digest: str
    time: str
    kind: str
    model: str
    body: Mapping[str, Any]

    @property
    def sealed(self) -> str:
        """The digest of this content; equals ``digest`` unless the entry was changed."""
        return json_digest({key: value for key, value in asdict(self).items() if key != "digest"})


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy as a ledger entry names it: digests of commit and weights, run and iteration. ``entry``: its digest."""

    commit: str
    policy: str
    run: str
    iteration: int
    entry: str

    def __str__(self) -> str:
        return policy_name(self.run, self.iteration)


@dataclass(frozen=True, slots=True)
class Champions:
    """The champion of a model and the one before it, which a rollback returns to."""

    champion: NamedPolicy | None = None
    previous: NamedPolicy | None = None


class Ledger(Protocol):
    """A store of entries that can append one only if no other came first."""

    def entries(self) -> list[Entry]:
        """Every entry in order, the chain verified. Raises IntegrityError if it was changed."""

    def append(self, kind: Kind, model: str, body: Mapping[str, Any], *, time: str, after: str | None = None) -> Entry:
        """Add an entry durably; every reader sees it once this returns.

        ``after``: the digest of the last entry that the caller has read (GENESIS: none). Raises LedgerMovedError, and
        adds nothing, if another entry was added since.
        """


def last_digest(entries: Sequence[Entry]) -> str:
    """Digest of the last entry, which the next one must name."""
    return entries[-1].digest if entries else GENESIS


def following(
    last: tuple[int, str], kind: str, model: str, body: Mapping[str, Any], *, time: str, after: str | None
) -> Entry:
    """The entry that comes after ``last`` (number, digest; (0, GENESIS) before the first).

    Raises LedgerMovedError if ``after`` is another digest, ValueError for an unknown kind, or a body that cannot be
    written as JSON.
    """
    number, previous = last
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not a kind of entry; use one of {', '.join(KINDS)}")
    if after is not None and after != previous:
        raise LedgerMovedError(
            "another entry was added to the ledger after it was read",
            got=f"last entry {number}, digest {previous[:12]}",
            expected=f"last entry with digest {after[:12]}",
            hint="look at the new entries (raft ledger), then run this command again",
        )
    plain = json.loads(json.dumps(body, allow_nan=False))
    _check_body(kind, plain)
    unsealed = Entry(number + 1, previous, "", time, kind, model, plain)
    return Entry(number + 1, previous, unsealed.sealed, time, kind, model, plain)


def chain_faults(entries: Sequence[Entry]) -> list[str]:
    """Every place where the chain is broken, in order; empty if it is intact."""
    faults, number, previous = [], 0, GENESIS
    for place, entry in enumerate(entries, start=1):
        if entry.number != number + 1:
            faults.append(f"entry {entry.number} is at position {place}, where entry {number + 1} belongs")
        if entry.previous != previous:
            faults.append(
                f"entry {entry.number} names {entry.previous[:12]} as the entry before it, which is {previous[:12]}"
            )
        if entry.sealed != entry.digest:
            faults.append(
                f"entry {entry.number} was changed: its digest is {entry.sealed[:12]}, recorded is {entry.digest[:12]}"
            )
        number, previous = entry.number, entry.digest
    return faults


def check_chain(entries: Sequence[Entry], where: str) -> None:
    """Raise IntegrityError unless every entry follows the one before it."""
    if faults := chain_faults(entries):
        raise IntegrityError(
            f"the ledger {where} was changed: {faults[0]}",
            got=f"{len(faults)} places where the chain of entries is broken",
            expected="every entry unchanged, each naming the one before it",
            hint="restore the ledger from a backup; nothing can be promoted until its chain is intact",
        )


def current(entries: Sequence[Entry], model: str) -> Champions:
    """Champion and previous champion of ``model`` after ``entries``.

    Champions form a stack: a promotion adds one on top, a rollback removes those above its target. So ``previous`` is
    what the next rollback returns to, never what was rolled back from. A withdrawn policy leaves the stack; the one
    below it does not become champion by itself.
    """
    stack: list[NamedPolicy] = []
    champion: NamedPolicy | None = None
    for entry in entries:
        if entry.kind in ("withdrawn", "erased"):
            stack = [earlier for earlier in stack if not names(entry.body, earlier.commit, earlier.policy)]
            champion = champion if champion in stack else None
        elif entry.model == model and entry.kind in ("promoted", "rolled_back"):
            champion = named_policy(entry)
            commits = [earlier.commit for earlier in stack]
            if entry.kind == "rolled_back" and champion.commit in commits:
                stack = stack[: commits.index(champion.commit)]
            stack = [earlier for earlier in stack if earlier.commit != champion.commit] + [champion]
    below = [earlier for earlier in stack if earlier is not champion]
    return Champions(champion, below[-1] if below else None)


def named_policy(entry: Entry) -> NamedPolicy:
    """The policy that an entry is about."""
    body = entry.body
    return NamedPolicy(body["commit"], body["policy"], body["run"], int(body["iteration"]), entry.digest)


def withdrawal(entries: Sequence[Entry], commit: str, policy: str) -> Entry | None:
    """The entry that withdrew a policy, under whatever model name; None if it was not withdrawn."""
    return next((e for e in entries if e.kind in ("withdrawn", "erased") and names(e.body, commit, policy)), None)


def names(body: Mapping[str, Any], commit: str, policy: str) -> bool:
    """Whether a body names a policy, by its commit or by its weights."""
    return body.get("commit") == commit or body.get("policy") == policy


_NAMED: Mapping[str, type] = {"commit": str, "policy": str, "run": str, "iteration": int}
_BODIES: Mapping[str, Mapping[str, type]] = {"requested": _NAMED, "promoted": _NAMED, "rolled_back": _NAMED}
"""Kind → keys that its body must have, with their types: readers rely on them."""


def entry_of(facts: Mapping[str, Any]) -> Entry:
    """An entry as it was stored. Raises ValueError or TypeError if ``facts`` are not an entry."""
    entry = Entry(**facts)
    kinds = {"number": int, "previous": str, "digest": str, "time": str, "kind": str, "model": str, "body": dict}
    if wrong := [name for name, kind in kinds.items() if not isinstance(facts[name], kind)]:
        raise ValueError(f"{wrong[0]} is {facts[wrong[0]]!r:.40}, expected {kinds[wrong[0]].__name__}")
    _check_body(entry.kind, entry.body)
    return entry


def _check_body(kind: str, body: Mapping[str, Any]) -> None:
    wanted = _BODIES.get(kind, {})
    if wrong := [name for name, typ in wanted.items() if not isinstance(body.get(name), typ)]:
        raise ValueError(f"the body of an entry of kind {kind} has no valid {wrong[0]}")


class FileLedger:
    """A ledger for one machine: a file of JSON lines on a local disk, written under ``flock``.

    A last line that a kill left incomplete is not an entry; the next append removes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """See ``Ledger.entries``."""
        try:
            with open_regular(self.path) as file:
                data = file.read()
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"the ledger {self.path} cannot be read",
                got=error,
                expected="a readable file of ledger entries",
                hint="restore it from a backup, or correct RAFT_LEDGER",
            ) from error
        return _parse(data, self.path)[0]

    def append(self, kind: Kind, model: str, body: Mapping[str, Any], *, time: str, after: str | None = None) -> Entry:
        """See ``Ledger.append``."""
        self.entries()  # refuses a path that is not a ledger, before it is opened for writing
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("a+b") as file:
            lock_open_file(file)
            file.seek(0)
            data = file.read()
            entries, whole = _parse(data, self.path)
            last = (entries[-1].number, entries[-1].digest) if entries else (0, GENESIS)
            entry = following(last, kind, model, body, time=time, after=after)
            line = json.dumps(asdict(entry), sort_keys=True, ensure_ascii=False, allow_nan=False).encode()
            file.truncate(whole)
            unended = whole > 0 and data[whole - 1 : whole] != b"\n"
            file.write(b"\n" * unended + line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            fsync_folder(self.path.parent)
        return entry


def _parse(data: bytes, path: Path) -> tuple[list[Entry], int]:
    """The entries, and how many bytes they take; bytes after that are an incomplete last line."""
    entries: list[Entry] = []
    whole = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            entry = entry_of(parse_object(line))
        except (ValueError, TypeError) as error:
            if whole + len(line) == len(data) and not line.endswith(b"\n"):
                break
            raise IntegrityError(
                f"line {number} of {path} is not a ledger entry",
                got=error,
                expected="one JSON object per line, as raft wrote it",
                hint="restore the file from a backup",
            ) from error
        entries.append(entry)
        whole += len(line)
    check_chain(entries, str(path))
    return entries, whole
