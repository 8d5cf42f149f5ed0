"""Prefect's temporary server answers its owner alone, and what a server says of results is never loaded."""

import base64
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from prefect import flow
from prefect._internal.result_records import ResultRecord, ResultRecordMetadata
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run
from prefect.serializers import CompressedSerializer, PickleSerializer
from prefect.settings import get_current_settings
from prefect.states import get_state_exception
from websockets.exceptions import WebSocketException

from flows.orchestration import server as prefect_server
from raft_core.errors import StepError


@flow(name="password")
def small_flow() -> tuple[str, int]:
    return str(flow_run.get_id()), 7


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str, Any]]:
    """(address, id of a flow run, process) of a temporary server that is in use."""
    with prefect_server.tied():
        identity, number = small_flow()
        assert number == 7
        server = prefect_server.temporary_server()
        yield server.api_url, identity, server.process


def test_another_local_user_is_not_answered(served: tuple[str, str, Any]) -> None:
    address, identity, _ = served
    state = {"state": {"type": "COMPLETED", "data": {"serializer": {"type": "pickle"}, "storage_key": "/tmp/x"}}}
    wrong = {"Authorization": f"Basic {base64.b64encode(b'raft:guessed').decode()}"}
    for headers in ({}, wrong):
        with httpx.Client(base_url=f"{address}/", headers=headers) as stranger:
            answers = [
                stranger.post("flow_runs/filter", json={}),
                stranger.get(f"flow_runs/{identity}"),
                stranger.post(f"flow_runs/{identity}/set_state", json={**state, "force": True}),
                stranger.post("flows/", json={"name": "theirs"}),
                stranger.get("admin/settings"),
                stranger.delete(f"flow_runs/{identity}"),
            ]
            assert {answer.status_code for answer in answers} == {401}
            assert stranger.get("health").status_code == 200  # says that it is there, and nothing else


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
@pytest.mark.parametrize("greeting", [None, '{"type": "auth", "token": "raft:guessed"}'])
def test_no_stream_is_open_to_another_local_user(served: tuple[str, str, Any], path: str, greeting: str | None) -> None:
    from websockets.sync.client import connect
    from websockets.typing import Subprotocol

    def said() -> str:
        protocols = [Subprotocol("prefect")] if greeting else None
        with connect(f"{served[0].replace('http://', 'ws://')}/{path}", subprotocols=protocols) as stream:
            stream.send(greeting or "{}")
            return str(stream.recv(timeout=20)) + str(stream.recv(timeout=20))

    with pytest.raises((WebSocketException, OSError)):
        said()


def test_the_password_stands_on_no_command_line_and_our_own_events_arrive(served: tuple[str, str, Any]) -> None:
    address, identity, process = served
    secret = prefect_server.password()
    assert secret not in " ".join(psutil.Process(process.pid).cmdline())
    us = tuple(secret.split(":"))
    deadline = time.monotonic() + 60
    with httpx.Client(base_url=f"{address}/", auth=us) as owner:  # type: ignore[arg-type]
        assert [run["id"] for run in owner.post("flow_runs/filter", json={}).json()].count(identity) == 1
        asked = {"filter": {"related": {"resources_in_roles": []}, "event": {"prefix": ["prefect.flow-run."]}}}
        while not (events := owner.post("events/filter", json=asked).json()["events"]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert events


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.write_text, (self.target, "owned")


@pytest.mark.parametrize("kind", [StateType.COMPLETED, StateType.FAILED])
@pytest.mark.parametrize(
    "serializer", [PickleSerializer(), CompressedSerializer(serializer="pickle")], ids=["pickle", "compressed"]
)
def test_a_result_that_a_server_names_is_not_loaded(
    served: tuple[str, str, Any], serializer: Any, kind: StateType, tmp_path: Path
) -> None:
    """As a server would answer that somebody else can change, or that is a stranger's."""
    planted = get_current_settings().results.local_storage_path / f"planted-{kind.value}-{serializer.type}"
    planted.parent.mkdir(parents=True, exist_ok=True)
    metadata = ResultRecordMetadata(serializer=serializer, storage_key=str(planted))
    planted.write_bytes(ResultRecord(result=Payload(tmp_path / "ran"), metadata=metadata).serialize())
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(small_flow, name=str(uuid4()))
        told = {"type": kind.value, "data": metadata.model_dump(mode="json", serialize_as_any=True)}
        client._client.post(f"/flow_runs/{run.id}/set_state", json={"state": told, "force": True})
        state = client.read_flow_run(run.id).state
    assert state is not None
    assert isinstance(state.data, ResultRecordMetadata)
    with pytest.raises(StepError, match="stored result"):
        state.result() if kind is StateType.COMPLETED else get_state_exception(state)
    assert not (tmp_path / "ran").exists()


def test_prefects_own_threads_know_server_and_password_and_the_environment_does_not(
    served: tuple[str, str, Any],
) -> None:
    seen: list[tuple[Any, Any]] = []

    def look() -> None:
        api = get_current_settings().api
        seen.append((api.url, api.auth_string.get_secret_value() if api.auth_string else None))

    thread = threading.Thread(target=look)  # begins without the settings of the thread that starts it
    thread.start()
    thread.join()
    assert seen == [(served[0], prefect_server.password())]
    assert prefect_server.password() not in "".join(os.environ.values())
    assert os.environ.get("PREFECT_API_URL") != served[0]


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_a_server_that_is_killed_answers_again_at_the_same_address(served: tuple[str, str, Any]) -> None:
    address, identity, _ = served
    server = prefect_server.temporary_server()
    assert server.process is not None
    first = server.process
    first.kill()
    deadline = time.monotonic() + 120
    while server.process is first or not answers(f"{address}/health"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert server.start() == address
    with get_client(sync_client=True) as client:
        assert str(client.read_flow_run(UUID(identity)).id) == identity
