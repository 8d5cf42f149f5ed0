"""Tombstones: rows that were erased on purpose, told apart from bytes that were spoilt.

``commit.json`` is never rewritten: its digests hold the chain together. ``erased.json`` beside it says of every
output that lost rows which digest it had, which it has since, and how many rows are gone. It names no text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import file_digest, json_digest, write_json
from raft_core.files.plain_json import read_json

TOMBSTONE = "erased.json"
TOMBSTONE_FORMAT = 1
_TABLE = re.compile(r"tables/[a-z]+\.parquet")


@dataclass(frozen=True, slots=True)
class Erased:
    """One output that lost rows. ``was``: the sha256 that ``commit.json`` names; ``now``: of the bytes since."""

    was: str
    now: str
    rows: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What was erased of one iteration. ``because``: which prompts or sources had to go, by their names."""

    commit: str
    outputs: Mapping[str, Erased]
    because: Sequence[str]
    digest: str
    """sha256 of the file, as the ledger keeps it."""


def read_tombstone(folder: Path) -> Tombstone | None:
    """The tombstone of an iteration's ``folder``, if there is one.

    Raises IntegrityError if it was edited, or names another output than a table: nothing else loses rows.
    Whoever writes one can seal it: ``verification.unordered_erasures`` asks the ledger.
    """
    path = folder / TOMBSTONE
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if content["format"] != TOMBSTONE_FORMAT or _seal(content) != content["content"]:
            raise ValueError("its content is not what was written")
        outputs = {name: Erased(**row) for name, row in content["outputs"].items()}
        if others := [name for name in outputs if not _TABLE.fullmatch(name)]:
            raise ValueError(f"{others[0]} is no table")
        return Tombstone(content["commit"], outputs, tuple(content["because"]), file_digest(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"edited or foreign tombstone: {path}", got=error, hint="restore it from git") from error


def write_tombstone(folder: Path, outputs: Mapping[str, Erased], because: Sequence[str]) -> Tombstone:
    """Add to the tombstone of a committed iteration's ``folder``; what was erased before stays said."""
    before = read_tombstone(folder)
    known = dict(before.outputs) if before else {}
    for name, erased in outputs.items():
        first = known.get(name)
        known[name] = erased if first is None else Erased(first.was, erased.now, first.rows + erased.rows)
    whole: dict[str, Any] = {
        "format": TOMBSTONE_FORMAT,
        "commit": file_digest(folder / "commit.json"),
        "outputs": {name: asdict(erased) for name, erased in known.items()},
        "because": sorted({*(before.because if before else ()), *because}),
    }
    write_json(folder / TOMBSTONE, {**whole, "content": _seal(whole)})
    written = read_tombstone(folder)
    assert written is not None
    return written


def digests_since(folder: Path, outputs: Mapping[str, str]) -> dict[str, str]:
    """``outputs`` of a commit (name → sha256) as they are since rows were erased, where they were."""
    tombstone = read_tombstone(folder)
    erased = tombstone.outputs if tombstone else {}
    since = {name: row.now for name, row in erased.items() if row.was == outputs.get(name)}
    return {name: since.get(name, digest) for name, digest in outputs.items()}


def aside_of(path: Path) -> Path:
    """Where a table without what must go waits for its tombstone."""
    return path.with_name(f".{path.name}.erasing")


def unfinished(path: Path, erased: Erased) -> bool:
    """Whether the bytes that the tombstone names still wait beside ``path``: a kill came between the two."""
    aside = aside_of(path)
    return aside.is_file() and file_digest(aside) == erased.now


def _seal(content: Mapping[str, Any]) -> str:
    return json_digest({key: value for key, value in content.items() if key != "content"})
