"""Prompts and sources that had to go: no later run draws, evaluates or promotes on them.

``exclusions.jsonl`` in the workspace, one line an act, appended. It holds ids and digests, never a text. What a run
left out because of it is named in ``exclusions.json`` of the run, whose digest is in every commit made since.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raft_core.errors import IntegrityError
from raft_core.files.artifacts import write_json
from raft_core.files.locks import lock_open_file
from raft_core.files.plain_json import parse_object, read_lines
from raft_core.prompts.splits import Splits
from raft_core.types import Prompt, content_id

FILE = "exclusions.jsonl"
MAX_LINE = 1 << 26
"""Bytes of an act: it may exclude hundreds of thousands of prompts."""
RECORD = "exclusions.json"
"""Of a run: the prompts that it would have had without the exclusions."""


@dataclass(frozen=True, slots=True)
class Act:
    """One line of the file: what was excluded at once. ``time``: ISO 8601 in UTC, "" where nobody knows."""

    time: str
    prompts: frozenset[str]
    texts: frozenset[str]
    sources: frozenset[str]


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Everything that is excluded. ``texts``: identities of texts, since the same text may come with another id."""

    prompts: frozenset[str] = frozenset()
    texts: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()

    def covers(self, prompt: Prompt) -> bool:
        """Whether ``prompt`` must not be used."""
        return (
            prompt.prompt_id in self.prompts
            or (bool(prompt.source) and prompt.source in self.sources)
            or text_id(prompt.text) in self.texts
        )


def text_id(text: str) -> str:
    """Identity of a text, from which it cannot be read."""
    return content_id("text", text)


def read_exclusions(workspace: Path) -> Exclusions:
    """What is excluded in ``workspace``. Raises IntegrityError for a file that cannot be read: nothing is guessed."""
    every = read_acts(workspace)
    return Exclusions(
        frozenset[str]().union(*(act.prompts for act in every)),
        frozenset[str]().union(*(act.texts for act in every)),
        frozenset[str]().union(*(act.sources for act in every)),
    )


def read_acts(workspace: Path) -> list[Act]:
    """The acts that excluded something in ``workspace``, oldest first. Raises as ``read_exclusions`` does."""
    path, acts = workspace / FILE, []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = parse_object(line)
            acts.append(
                Act(
                    str(row.get("time", "")),
                    frozenset(row["prompts"]),
                    frozenset(row["texts"]),
                    frozenset(row["sources"]),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(
                f"{path}, line {number} is no exclusion",
                got=error,
                hint="restore the file from git; a line that a kill cut off may be removed, then forget again",
            ) from error
    return acts


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from read_lines(path, MAX_LINE)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read", got=error, hint="restore the file from git") from error


def add_exclusion(workspace: Path, *, prompts: Iterable[Prompt | str], sources: Sequence[str], time: str) -> bool:
    """Append an act, durably; ``prompts`` may be ids alone. False if all of it was excluded already."""
    known = read_exclusions(workspace)
    every = list(prompts)
    ids = {p if isinstance(p, str) else p.prompt_id for p in every} - known.prompts
    texts = {text_id(p.text) for p in every if isinstance(p, Prompt)} - known.texts
    new_sources = set(sources) - known.sources
    if not (ids or texts or new_sources):
        return False
    row = {"time": time, "prompts": sorted(ids), "texts": sorted(texts), "sources": sorted(new_sources)}
    with (workspace / FILE).open("ab") as file:
        lock_open_file(file)
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def without(splits: Splits, excluded: Exclusions) -> tuple[Splits, list[str]]:
    """``splits`` without what is excluded, and the ids of the prompts that were left out.

    Every other prompt stays in its split: an exclusion moves none from training to the held-out set.
    """
    left_out = sorted(
        p.prompt_id for part in (splits.train, splits.held_out, splits.promotion) for p in part if excluded.covers(p)
    )
    if not left_out:
        return splits, []
    gone = set(left_out)

    def rest(part: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        return tuple(p for p in part if p.prompt_id not in gone)

    return Splits(rest(splits.train), rest(splits.held_out), rest(splits.promotion)), left_out


def record_left_out(run: Path, prompts: Sequence[str]) -> None:
    """Name the prompts that the run in the folder ``run`` leaves out, where there are any."""
    path = run / RECORD
    if prompts:
        write_json(path, {"prompts": list(prompts)})
    else:
        path.unlink(missing_ok=True)
