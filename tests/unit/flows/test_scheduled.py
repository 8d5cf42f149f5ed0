"""Flows of the schedules, without a server: whoever watches hears of every one that could not do its work."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Flow
from prefect.client.schemas.objects import State, StateType

from flows.orchestration import scheduled
from flows.orchestration.automations import SILENT
from flows.orchestration.deployments import FLOWS
from flows.orchestration.events import ENDED, FAILED
from tasks.audit import sweep as audit


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Each event and the reason that it gives."""
    events: list[tuple[str, str]] = []
    this = SimpleNamespace(id="1", name="busy-owl", expected_start_time=None)
    monkeypatch.setattr(scheduled, "_this_run", lambda: this)
    monkeypatch.setattr(scheduled, "announce", lambda event, *_, **facts: events.append((event, facts["reason"])))
    monkeypatch.setattr(scheduled, "send", lambda event, *_: events.append((event, "")))
    monkeypatch.setattr(scheduled, "ENDED_AFTER_S", (0.0, 0.0))
    return events


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_a_failure_is_told(
    flow: Flow[..., Any], heard: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise OSError("cannot reach http://me:hunter2@host")

    for module, name in ((scheduled, "chdir"), (audit, "sweep"), (scheduled, "ledger_uri")):
        monkeypatch.setattr(module, name, crash)
    needed = {"config": "a.yaml", "workspace": str(tmp_path), "candidate": "m"}
    wanted = {name: value for name, value in needed.items() if name in flow.parameters.properties}
    with pytest.raises(OSError, match="cannot reach"):
        flow.fn(**wanted)
    assert heard == [(FAILED, "cannot reach http://[redacted]@host"), (ENDED, ""), (ENDED, "")]


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize(
    ("end", "known"), [("Cancelled", True), ("Completed", True), ("Crashed", False), ("Running", False)]
)
def test_how_a_run_had_ended_however_often_silence_was_told(
    times: int, end: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that stood still tells it of each of its automations at once."""
    first = datetime(2026, 1, 1, tzinfo=UTC)
    names = [("RUNNING", "Running", ""), (end.upper(), end, "")]
    names += [("SCHEDULED", "AwaitingRetry", f"{SILENT} 180 s")] * times
    names += [("PENDING", "Pending", ""), ("RUNNING", "Running", "")]
    states = [
        State(type=StateType(kind), name=name, message=message, timestamp=first + timedelta(seconds=second))
        for second, (kind, name, message) in enumerate(names)
    ]
    client = SimpleNamespace(read_flow_run_states=lambda _: states)
    monkeypatch.setattr(scheduled, "get_client", lambda **_: nullcontext(client))
    found = scheduled._ended(SimpleNamespace(id="1"))  # type: ignore[arg-type]
    assert (found.name if found else None) == (end if known else None)
