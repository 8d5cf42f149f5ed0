"""Tombstones: they distinguish rows that were erased on purpose from changed bytes.

``commit.json`` is never rewritten, because the chain depends on its digests. ``erased.json`` beside it lists every
output that lost rows: its digest before and after, and how many rows were erased. It quotes no text.
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
    """One output that lost rows. ``was``: the sha256 in ``commit.json``; ``now``: the sha256 after the erasure."""

    was: str
    now: str
    rows: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What was erased from one iteration. ``because``: the prompts or sources that were forgotten, by id or name."""

    commit: str
    outputs: Mapping[str, Erased]
    because: Sequence[str]
    digest: str
    """sha256 of the file, which the ledger records."""


def read_tombstone(folder: Path) -> Tombstone | None:
    """The tombstone of an iteration's ``folder``, or None.

    Raises IntegrityError if it was edited or names an output that is not a table. A forged tombstone can have a valid
    seal; ``verification.unordered_erasures`` compares with the ledger.
    """
    path = folder / TOMBSTONE
    if not path.exists():
        return None
    try:
        content = read_json(path)
        if content["format"] != TOMBSTONE_FORMAT or _seal(content) != content["content"]:
            raise ValueError("its content does not match its seal")
        outputs = {name: Erased(**row) for name, row in content["outputs"].items()}
        if others := [name for name in outputs if not _TABLE.fullmatch(name)]:
            raise ValueError(f"{others[0]} is not a table")
        return Tombstone(content["commit"], outputs, tuple(content["because"]), file_digest(path))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"edited or foreign tombstone: {path}", got=error, hint="restore it from git") from error


def write_tombstone(folder: Path, outputs: Mapping[str, Erased], because: Sequence[str]) -> Tombstone:
    """Write the tombstone of a committed iteration's ``folder``, or add to the one that exists."""
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
    """``outputs`` of a commit (name → sha256), with the digest after the erasure for those that lost rows."""
    tombstone = read_tombstone(folder)
    erased = tombstone.outputs if tombstone else {}
    since = {name: row.now for name, row in erased.items() if row.was == outputs.get(name)}
    return {name: since.get(name, digest) for name, digest in outputs.items()}


def aside_of(path: Path) -> Path:
    """Temporary path of a table without the erased rows, until the tombstone is written."""
    return path.with_name(f".{path.name}.erasing")


def unfinished(path: Path, erased: Erased) -> bool:
    """Whether the erased table still waits beside ``path`` because a kill came before the rename."""
    aside = aside_of(path)
    return aside.is_file() and file_digest(aside) == erased.now


def _seal(content: Mapping[str, Any]) -> str:
    return json_digest({key: value for key, value in content.items() if key != "content"})
