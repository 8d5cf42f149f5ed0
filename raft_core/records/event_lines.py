"""The lines of an event log, as somebody else may have written them."""

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
"""Kind → what its readers count on, beside ``time`` and ``kind``."""
_AMOUNTS = ("seconds", "tokens", "peak_rss_mb")


def events_in(path: Path) -> Iterator[dict[str, Any]]:
    """The events of a log in order; none of one that is absent. Raises IntegrityError for what is no file."""
    try:
        for line in read_lines(path):
            if (event := parse_event(line)) is not None:
                yield event
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{path} cannot be read", got=error, hint="move it away: it lies outside the chain"
        ) from None


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event of a line; None for one that a kill cut off, or that nobody who reads events could use."""
    try:
        event = parse_json(line)
        datetime.fromisoformat(event["time"])
        wanted = {"kind": str, **_EVENT_FIELDS.get(event["kind"], {})}
    except (ValueError, KeyError, TypeError):
        return None
    sound = all(isinstance(event.get(name), kind) for name, kind in wanted.items())
    amounts = all(isinstance(event.get(name), int | float | None) for name in _AMOUNTS)
    return event if sound and amounts else None
