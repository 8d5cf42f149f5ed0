"""The ledger: who asked for, approved, promoted, rolled back or withdrew which model, in one order for all.

Append-only and hash-chained: every entry names the digest of the one before it, so an entry that is
changed, dropped or put in between shows. (Entries cut off at the end show only against a digest that
is kept elsewhere; MLflow's tags hold one.) A model is named in a body by ``commit`` (sha256 of the
iteration's ``commit.json``) and ``policy`` (identity of the weights), never by a version number.
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

Kind = Literal["requested", "approved", "rejected", "promoted", "refused", "rolled_back", "withdrawn", "erased"]
KINDS: tuple[str, ...] = get_args(Kind)
GENESIS = "0" * 64
"""What the first entry follows."""


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
        """The digest that this content has."""
        return json_digest({key: value for key, value in asdict(self).items() if key != "digest"})


@dataclass(frozen=True, slots=True)
class Holder:
    """A model version that holds, or held, an alias. ``entry``: digest of the entry that gave it."""

    commit: str
    policy: str
    run: str
    iteration: int
    entry: str


@dataclass(frozen=True, slots=True)
class Standing:
    """Which version is the champion of a model, and which one was before it."""

    champion: Holder | None = None
    previous: Holder | None = None


class Ledger(Protocol):
    """A store of entries with conditional append."""

    def entries(self) -> list[Entry]:
        """Every entry in order, the chain checked. Raises IntegrityError where it does not hold."""

    def append(self, kind: Kind, model: str, body: Mapping[str, Any], *, time: str, after: str | None = None) -> Entry:
        """Add an entry, durably; it is there for every reader when this returns.

        ``after``: the digest of the last entry that the caller has seen (GENESIS: none). Raises
        LedgerMovedError, and adds nothing, if another entry came since.
        """


def last_digest(entries: Sequence[Entry]) -> str:
    """What the next entry follows."""
    return entries[-1].digest if entries else GENESIS


def following(
    last: tuple[int, str], kind: str, model: str, body: Mapping[str, Any], *, time: str, after: str | None
) -> Entry:
    """The entry that comes after ``last`` (number, digest; (0, GENESIS) before the first).

    Raises LedgerMovedError if ``after`` is another digest, ValueError for an unknown kind or a body
    that is no JSON.
    """
    number, previous = last
    if kind not in KINDS:
        raise ValueError(f"no kind of entry: {kind!r}; use one of {', '.join(KINDS)}")
    if after is not None and after != previous:
        raise LedgerMovedError(
            "the ledger has moved on since it was read",
            got=f"entry {number}, {previous[:12]}",
            expected=f"{after[:12]} as the last one",
            hint="look at it (raft ledger) and ask again",
        )
    plain = json.loads(json.dumps(body, allow_nan=False))
    _check_body(kind, plain)
    unsealed = Entry(number + 1, previous, "", time, kind, model, plain)
    return Entry(number + 1, previous, unsealed.sealed, time, kind, model, plain)


def chain_faults(entries: Sequence[Entry]) -> list[str]:
    """Every place where the chain does not hold, in order; none: it does."""
    faults, number, previous = [], 0, GENESIS
    for place, entry in enumerate(entries, start=1):
        if entry.number != number + 1:
            faults.append(f"place {place} holds entry {entry.number}, expected {number + 1}")
        if entry.previous != previous:
            faults.append(f"entry {entry.number} follows {entry.previous[:12]}, but {previous[:12]} stands before it")
        if entry.sealed != entry.digest:
            faults.append(f"entry {entry.number} was changed: it is {entry.sealed[:12]}, sealed as {entry.digest[:12]}")
        number, previous = entry.number, entry.digest
    return faults


def check_chain(entries: Sequence[Entry], where: str) -> None:
    """Raise IntegrityError unless every entry follows the one before it."""
    if faults := chain_faults(entries):
        raise IntegrityError(
            f"the ledger {where} was changed: {faults[0]}",
            got=f"{len(faults)} faults",
            hint="restore it from a copy; promotions stop until its chain holds",
        )


def current(entries: Sequence[Entry], model: str) -> Standing:
    """Champion and previous of ``model`` after ``entries``.

    Champions lie on a stack: a promotion puts one on top, a rollback takes off what is above its
    target. So ``previous`` is what the next rollback returns to, never what was rolled back from. A
    withdrawn or erased version leaves the stack; the one below it does not step up by itself.
    """
    stack: list[Holder] = []
    champion: Holder | None = None
    for entry in entries:
        if entry.kind in ("withdrawn", "erased"):
            stack = [holder for holder in stack if not names(entry.body, holder.commit, holder.policy)]
            champion = champion if champion in stack else None
        elif entry.model == model and entry.kind in ("promoted", "rolled_back"):
            champion = holder_of(entry)
            commits = [holder.commit for holder in stack]
            if entry.kind == "rolled_back" and champion.commit in commits:
                stack = stack[: commits.index(champion.commit)]
            stack = [holder for holder in stack if holder.commit != champion.commit] + [champion]
    below = [holder for holder in stack if holder is not champion]
    return Standing(champion, below[-1] if below else None)


def holder_of(entry: Entry) -> Holder:
    """The version that an entry is about."""
    body = entry.body
    return Holder(body["commit"], body["policy"], body["run"], int(body["iteration"]), entry.digest)


def withdrawal(entries: Sequence[Entry], commit: str, policy: str) -> Entry | None:
    """The entry that withdrew or erased a version, whatever model it was registered as; None: none did."""
    return next((e for e in entries if e.kind in ("withdrawn", "erased") and names(e.body, commit, policy)), None)


def names(body: Mapping[str, Any], commit: str, policy: str) -> bool:
    """Whether a body names a version, by its commit or by its weights."""
    return body.get("commit") == commit or body.get("policy") == policy


_SUBJECT: Mapping[str, type] = {"commit": str, "policy": str, "run": str, "iteration": int}
_BODIES: Mapping[str, Mapping[str, type]] = {"requested": _SUBJECT, "promoted": _SUBJECT, "rolled_back": _SUBJECT}
"""Kind → what its body must hold: whoever reads the ledger counts on it."""


def entry_of(facts: Mapping[str, Any]) -> Entry:
    """An entry as it was stored. Raises ValueError or TypeError for what is none."""
    entry = Entry(**facts)
    kinds = {"number": int, "previous": str, "digest": str, "time": str, "kind": str, "model": str, "body": dict}
    if wrong := [name for name, kind in kinds.items() if not isinstance(facts[name], kind)]:
        raise ValueError(f"{wrong[0]} is {facts[wrong[0]]!r:.40}")
    _check_body(entry.kind, entry.body)
    return entry


def _check_body(kind: str, body: Mapping[str, Any]) -> None:
    wanted = _BODIES.get(kind, {})
    if wrong := [name for name, typ in wanted.items() if not isinstance(body.get(name), typ)]:
        raise ValueError(f"an entry of kind {kind} whose body has no {wrong[0]}")


class FileLedger:
    """A ledger of one machine: a file of JSON lines, written under ``flock``.

    The file lies on a local disk. What a kill left of a line that was being written is no entry,
    and goes with the next append.
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
                expected="a file",
                hint="restore it from a copy, or correct RAFT_LEDGER",
            ) from error
        return _parse(data, self.path)[0]

    def append(self, kind: Kind, model: str, body: Mapping[str, Any], *, time: str, after: str | None = None) -> Entry:
        """See ``Ledger.append``."""
        self.entries()  # what is no file, or no ledger, is refused before it is opened to write
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
    """The entries, and how many bytes they take: what is behind is a torn tail."""
    entries: list[Entry] = []
    whole = 0
    for number, line in enumerate(data.splitlines(keepends=True), start=1):
        try:
            entry = entry_of(parse_object(line))
        except (ValueError, TypeError) as error:
            if whole + len(line) == len(data) and not line.endswith(b"\n"):
                break
            raise IntegrityError(
                f"{path}, line {number} is no entry of a ledger", got=error, hint="restore the file from a copy"
            ) from error
        entries.append(entry)
        whole += len(line)
    check_chain(entries, str(path))
    return entries, whole
