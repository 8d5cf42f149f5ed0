"""Whether a prompt, source or text was forgotten before: read from ``exclusions.jsonl`` and the tombstones."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from raft_core.audit.trace import FEWEST_DIGITS, By
from raft_core.errors import IntegrityError
from raft_core.forgetting.erasure import TOMBSTONE, Tombstone, read_tombstone
from raft_core.forgetting.exclusions import read_acts, text_id
from raft_core.records.policy_ref import policy_name
from raft_core.records.run import BASE


@dataclass(frozen=True, slots=True)
class ForgottenBefore:
    """``value`` was forgotten at ``time`` (ISO 8601, UTC). ``erased_from``: RUN@N of the tombstones that name it."""

    value: str
    time: str
    erased_from: tuple[str, ...]


def forgotten_before(workspace: Path, by: By, value: str) -> list[ForgottenBefore]:
    """Every time that the prompt (or the first digits of its id), source or whole text ``value`` was forgotten.

    The tombstones of an erasure by ``--text`` name no prompt, so they are not found by one.
    """
    found = []
    known = list(tombstones(workspace / "runs"))
    for act in read_acts(workspace):
        if by == "prompt":
            whole = len(value) >= FEWEST_DIGITS
            matching = sorted(p for p in act.prompts if p == value or (whole and p.startswith(value)))
        elif by == "source":
            matching = sorted(act.sources & {value})
        else:
            matching = ["this text"] if by == "text" and text_id(value) in act.texts else []
        sources = {f"source {name}" for name in act.sources}
        for one in matching:
            named = {f"prompt {p}" for p in (act.prompts if by == "text" else {one})} | sources
            places = [place for place, tombstone in known if named & set(tombstone.because)]
            found.append(ForgottenBefore(one, act.time, tuple(places)))
    return found


def tombstones(runs: Path) -> Iterator[tuple[str, Tombstone]]:
    """RUN@N and tombstone of every iteration that lost rows. ``raft lineage verify`` reports edited tombstones."""
    for path in sorted([*runs.glob(f"*/base/{TOMBSTONE}"), *runs.glob(f"*/iterations/*/{TOMBSTONE}")]):
        with suppress(IntegrityError):
            if (tombstone := read_tombstone(path.parent)) is not None:
                folder = path.parent
                is_base = folder.name == "base"
                run = folder.parent if is_base else folder.parents[1]
                yield policy_name(run.name, BASE if is_base else int(folder.name)), tombstone
