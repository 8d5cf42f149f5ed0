"""What Prefect is told of a run that finished while nobody could tell it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect import flow, get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from pydantic import SecretStr

from flows.loop.session import Session
from flows.orchestration import pages, server
from raft_core.errors import StepError
from raft_core.gates import Decision
from raft_core.records.run import Run, read_events, record_event
from raft_core.types import Policy
from tasks.loop.decide import decide
from tasks.loop.iteration import Iteration

pytestmark = pytest.mark.slow

MINE, TEMPORARY = "http://127.0.0.1:9/api", "temporary server at http://127.0.0.1:8123/api"
FLOW_RUN = "01234567-89ab-7cde-8f01-23456789abcd"


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.TemporaryServer, "start", lambda _: TEMPORARY.rpartition(" ")[2])


@pytest.fixture
def finished(
    write_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, no_server: None
) -> tuple[Session, Decision]:
    """A finished run whose flow run never came to its end."""
    monkeypatch.setattr(pages, "_publish", lambda *_: None)
    run = write_run()
    record_event(run, "flow_run", flow_run=FLOW_RUN)
    decision = decide(run)
    assert decision is not None
    return Session(run, run.path.parent.parent, SecretStr("")), decision


def serve(monkeypatch: pytest.MonkeyPatch, read: Callable[[UUID], Any]) -> list[str]:
    """A server that answers with ``read``; returns the list of states that it is told."""
    told: list[str] = []
    client = SimpleNamespace(
        read_flow_run=read, set_flow_run_state=lambda _, state, force: told.append(f"{state.name}: {state.message}")
    )

    @contextmanager
    def connect(**_: object) -> Iterator[SimpleNamespace]:
        yield client

    monkeypatch.setattr(pages, "get_client", connect)
    return told


def test_it_is_completed_there_once(finished: tuple[Session, Decision], monkeypatch: pytest.MonkeyPatch) -> None:
    session, decision = finished
    told = serve(monkeypatch, lambda _: SimpleNamespace(state=Running()))
    for _ in range(2):
        pages.tell_end(session, decision)
    assert told == [f"Completed: {decision.reason}"]
    assert [event["state"] for event in read_events(session.run, "flow_run_ended")] == ["Completed"]


def test_a_server_that_is_still_away_costs_a_warning(
    finished: tuple[Session, Decision], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: UUID) -> None:
        raise httpx.ConnectError("refused")

    serve(monkeypatch, refuse)
    session, decision = finished
    pages.tell_end(session, decision)
    assert pages.unended(session.run) == [FLOW_RUN]
    (warning,) = read_events(session.run, "warning")
    assert "or by raft resume hand" in warning["message"]


TOO_LARGE = httpx.HTTPStatusError(
    "Client error '422 Unprocessable Entity'",
    request=httpx.Request("POST", "http://127.0.0.1:8123/api/flow_runs/"),
    response=httpx.Response(422, text="Flow run parameters must be less than 524,288 bytes"),
)


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize(
    ("chosen", "error", "told"),
    [
        (None, TOO_LARGE, (f"{TEMPORARY} ", "POST /api/flow_runs/", "524,288")),
        (None, RuntimeError("Failed to reach API at x"), (TEMPORARY, "PREFECT_HOME")),
        (MINE, httpx.ConnectError("no"), (f"server at {MINE} ", "unset")),
        (MINE, TOO_LARGE, (f"server at {MINE} ", "POST", "422")),
    ],
)
def test_an_error_of_the_server_says_what_failed_where(
    write_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    chosen: str | None,
    error: Exception,
    told: tuple[str, ...],
) -> None:
    monkeypatch.setattr(server, "address", lambda: "http://127.0.0.1:8123/api")
    run = write_run(iterations=1, finished=False)

    def flow() -> Decision:
        raise error

    with temporary_settings({PREFECT_API_URL: chosen}), pytest.raises(StepError) as caught:
        pages.seen_through(Session(run, run.path.parent.parent, SecretStr("")), flow)
    assert all(words in str(caught.value) for words in told), caught.value
    assert "None" not in str(caught.value)


def test_a_temporary_server_that_never_started_has_no_address() -> None:
    assert "None" not in server.address()


def test_an_interrupted_run_is_cancelled_in_prefect(write_run: Callable[..., Run]) -> None:
    """On a real temporary server: the engine itself calls an interrupted flow crashed."""
    run = write_run(iterations=1, finished=False)
    session = Session(run, run.path.parent.parent, SecretStr(""))

    @flow
    def interrupted() -> Decision:
        pages.heal(session)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pages.seen_through(session, interrupted)
    (begun,) = read_events(run, "flow_run")
    with server.tied(), get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(begun["flow_run"])).state
    assert state is not None
    assert state.is_cancelled(), state
    assert f"raft resume {run.name}" in (state.message or "")
    assert [event["state"] for event in read_events(run, "flow_run_ended")] == ["Cancelled"]


def test_a_step_logs_what_it_did_in_one_line(write_run: Callable[..., Run], caplog: pytest.LogCaptureFixture) -> None:
    run = write_run(iterations=1, finished=False)
    session = Session(run, run.path.parent.parent, SecretStr(""))
    policy = Policy(run.path, "p")

    @flow
    def logged() -> None:
        with session.step(Iteration(run, 0, policy, policy), "sample") as running:
            running.ended("sampled 8 completions", reused=True)

    with server.tied(), caplog.at_level("INFO", logger="prefect.flow_runs"):
        logged()
    assert "sampled 8 completions (reused)" in caplog.messages
