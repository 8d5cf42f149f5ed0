"""What was found of a prompt, joined with what the clock and the registry said: when, and registered as what."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from raft_core.audit.index import Index
from raft_core.audit.trace import Trace, find
from raft_core.errors import InputError
from raft_core.files.plain_json import read_lines
from raft_core.records.event_lines import parse_event


@dataclass(frozen=True, slots=True)
class Traced:
    """``committed``: RUN@N → when (UTC, ISO 8601). ``registered``: RUN@N → NAME/VERSION. From the event logs."""

    trace: Trace
    committed: Mapping[str, str]
    registered: Mapping[str, str]

    def as_json(self, most: int) -> dict[str, Any]:
        """The document of ``raft lineage find --json``."""
        trace = self.trace
        return {
            "num_prompts": trace.num_prompts,
            "prompts": dict(list(trace.prompts.items())[:most]),
            "iterations": [
                {**asdict(i), "committed": self.committed.get(f"{i.run}@{i.iteration}")} for i in trace.iterations
            ],
            "num_samples": sum(i.samples for i in trace.iterations),
            "num_selected": sum(i.selected for i in trace.iterations),
            "samples": [{**asdict(use), "selected": use.selected} for use in trace.uses[:most]],
            "models": [
                {**asdict(m), "registered": self.registered.get(f"{m.run}@{m.iteration}")} for m in trace.models
            ],
            "unseen": list(trace.unseen),
        }


def join_events(trace: Trace, runs: Path) -> Traced:
    """``trace`` with the times and registered versions that the event logs of its runs name."""
    committed: dict[str, str] = {}
    registered: dict[str, str] = {}
    for name in sorted({i.run for i in trace.iterations} | {m.run for m in trace.models}):
        for event in _events(runs / name / "events.jsonl", (b'"commit"', b'"finished"')):
            if event.get("kind") == "step" and event.get("step") == "commit":
                committed[f"{name}@{event.get('iteration')}"] = str(event.get("time"))
            version = event.get("registered") if event.get("kind") == "finished" else None
            if isinstance(version, dict):
                registered[f"{name}@{event.get('best')}"] = f"{version.get('name')}/{version.get('version')}"
    return Traced(trace, committed, registered)


def _events(path: Path, marks: Sequence[bytes]) -> Iterator[Mapping[str, Any]]:
    """The events whose line holds one of ``marks``: an event log is long, what is wanted of it is short."""
    with suppress(OSError, ValueError):  # a log that is no file says nothing; raft lineage verify names it
        for line in read_lines(path):
            if any(mark in line for mark in marks) and (event := parse_event(line)) is not None:
                yield event


def iterations_of(
    index: Index, sample: str, where: str | None, erased: Sequence[str] = ()
) -> tuple[str, list[tuple[str, int]]]:
    """The whole id of ``sample`` and the (run, iteration)s that hold it, ``where`` (RUN or RUN@N) alone if given.

    ``erased``: RUN@Ns that lost rows on purpose. Raises InputError if none holds it.
    """
    trace = find(index, "sample", sample)
    uses = [use for use in trace.uses if where in (None, use.run, f"{use.run}@{use.iteration}")]
    if not uses:
        hint = f"; the tables of {len(trace.unseen)} iterations are not here" if trace.unseen else ""
        if erased:
            hint += f"; rows were erased on purpose from {', '.join(erased)}: it may have been one of them"
        raise InputError(
            f"no sample {sample!r}{f' in {where}' if where else ''}{hint}",
            expected="an id of a committed iteration",
            hint="raft lineage find --text or --prompt names samples",
        )
    return uses[0].sample_id, [(use.run, use.iteration) for use in uses]
