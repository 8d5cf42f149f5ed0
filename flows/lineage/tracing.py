"""A trace joined with the event logs: when each iteration was committed, and which version was registered."""

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
    """``trace`` with the commit times and registered versions from the event logs of its runs."""
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
    """The events whose line contains one of ``marks``; other lines are not parsed, since a log can be long."""
    with suppress(OSError, ValueError):  # an unreadable log adds nothing; raft lineage verify reports it
        for line in read_lines(path):
            if any(mark in line for mark in marks) and (event := parse_event(line)) is not None:
                yield event


def iterations_of(
    index: Index, sample: str, where: str | None, erased: Sequence[str] = ()
) -> tuple[str, list[tuple[str, int]]]:
    """The whole id of ``sample`` and every (run, iteration) that has it, limited to ``where`` (RUN or RUN@N) if given.

    ``erased``: the RUN@N that lost rows on purpose. Raises InputError if no iteration has the sample.
    """
    trace = find(index, "sample", sample)
    uses = [use for use in trace.uses if where in (None, use.run, f"{use.run}@{use.iteration}")]
    if not uses:
        known = f"; the tables of {len(trace.unseen)} iterations are not on this machine" if trace.unseen else ""
        if erased:
            known += f"; rows were erased on purpose from {', '.join(erased)}, and the sample may be one of them"
        raise InputError(
            f"there is no sample {sample!r}{f' in {where}' if where else ''}{known}",
            expected="the id of a sample of a committed iteration",
            hint="raft lineage find --text TEXT or --prompt ID shows the ids of samples",
        )
    return uses[0].sample_id, [(use.run, use.iteration) for use in uses]
