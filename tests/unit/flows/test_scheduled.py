"""Flows of the schedules, without a server: whoever watches hears of every one that could not do its work."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import Flow

from flows.announce import ENDED, FAILED
from flows.deploy import FLOWS
from flows.schedules import scheduled
from tasks import audit


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
