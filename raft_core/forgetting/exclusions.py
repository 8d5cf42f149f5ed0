"""Forgotten prompts and sources: no later run draws, evaluates or promotes on them.

They are listed in ``exclusions.jsonl`` of the workspace, one line for each time something was forgotten. It has ids and
digests, never a text. The prompts that a run leaves out are listed in its ``exclusions.json``, whose digest is in every
commit made since.
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
"""Most bytes of a line: it may exclude hundreds of thousands of prompts."""
RECORD = "exclusions.json"
"""File of a run that lists the prompts that it leaves out."""


@dataclass(frozen=True, slots=True)
class Act:
    """One line of the file: what was excluded together. ``time``: ISO 8601 in UTC, "" if unknown."""

    time: str
    prompts: frozenset[str]
    texts: frozenset[str]
    sources: frozenset[str]


@dataclass(frozen=True, slots=True)
class Exclusions:
    """Everything that is excluded. ``texts``: digests of texts, since the same text may come with another id."""

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
    """Digest that identifies a text without revealing it."""
    return content_id("text", text)


def read_exclusions(workspace: Path) -> Exclusions:
    """What is excluded in ``workspace``. Raises IntegrityError if the file cannot be read."""
    every = read_acts(workspace)
    return Exclusions(
        frozenset[str]().union(*(act.prompts for act in every)),
        frozenset[str]().union(*(act.texts for act in every)),
        frozenset[str]().union(*(act.sources for act in every)),
    )


def read_acts(workspace: Path) -> list[Act]:
    """The lines of ``exclusions.jsonl``, oldest first. Raises as ``read_exclusions`` does."""
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
                f"line {number} of {path} cannot be read",
                got=error,
                expected="a JSON object with prompts, texts and sources",
                hint="restore the file from git; if its last line was cut off, remove that line and forget again",
            ) from error
    return acts


def _lines(path: Path) -> Iterator[bytes]:
    try:
        yield from read_lines(path, MAX_LINE)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path} cannot be read", got=error, hint="restore the file from git") from error


def add_exclusion(workspace: Path, *, prompts: Iterable[Prompt | str], sources: Sequence[str], time: str) -> bool:
    """Append an exclusion durably; ``prompts`` may be ids. False if everything was already excluded."""
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
    """``splits`` without excluded prompts, and the ids of the prompts that were left out.

    Every other prompt stays in its split; an exclusion never moves one from training to the held-out set.
    """
    left_out = sorted(
        p.prompt_id for part in (splits.train, splits.held_out, splits.promotion) for p in part if excluded.covers(p)
    )
    if not left_out:
        return splits, []
    excluded_ids = set(left_out)

    def rest(part: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        return tuple(p for p in part if p.prompt_id not in excluded_ids)

    return Splits(rest(splits.train), rest(splits.held_out), rest(splits.promotion)), left_out


def record_left_out(run: Path, prompts: Sequence[str]) -> None:
    """Write which prompts the run in the folder ``run`` leaves out; without any the file is removed."""
    path = run / RECORD
    if prompts:
        write_json(path, {"prompts": list(prompts)})
    else:
        path.unlink(missing_ok=True)
