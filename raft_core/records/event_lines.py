"""Read the lines of an event log that may hold anything: malformed lines are skipped."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from raft_core.errors import IntegrityError
from raft_core.files.plain_json import parse_json, read_lines

_EVENT_FIELDS: Mapping[str, Mapping[str, type]] = {
    "step": {"iteration": int, "step": str},
    "projected": {"iteration": int, "projection": str},
    "finished": {"best": int},
    "pushed": {"remote": str, "items": list},
    "flow_run": {"flow_run": str},
    "flow_run_ended": {"flow_run": str},
}
"""Kind → fields that readers rely on, with their types, besides ``time`` and ``kind``."""
_AMOUNTS = ("seconds", "tokens", "peak_rss_mb")


def events_in(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log in order; empty if there is no log. Raises IntegrityError if it cannot be read."""
    try:
        for line in read_lines(path):
            if (event := parse_event(line)) is not None:
                yield event
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"the event log {path} cannot be read",
            got=error,
            expected="a file of JSON lines",
            hint="move it away; no commit depends on it",
        ) from None


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None for an incomplete line, or one that lacks a field that readers rely on."""
    try:
        event = parse_json(line)
        datetime.fromisoformat(event["time"])
        wanted = {"kind": str, **_EVENT_FIELDS.get(event["kind"], {})}
    except (ValueError, KeyError, TypeError):
        return None
    sound = all(isinstance(event.get(name), kind) for name, kind in wanted.items())
    amounts = all(isinstance(event.get(name), int | float | None) for name in _AMOUNTS)
    return event if sound and amounts else None
