"""What ``raft deploy`` leaves on a real Prefect server: deployments, a strict limit, automations that tell people."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import AutomationSort
from prefect.concurrency.sync import concurrency
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.announce import STOPPED, announce
from flows.deploy import apply, plan
from flows.schedules.overlap import limit_name, model_slot
from raft_core.errors import ConfigError, RunBusyError, StepError

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

CONFIG = "name: small\npolicy: {model: m}\nprompts: {train: p.jsonl}\nscoring: {rewards: [{type: lexicon}]}\n"
RUN = FlowRun.model_construct(deployment_id=None, expected_start_time=None, auto_scheduled=False)


@pytest.fixture(autouse=True)
def on_the_server(prefect: Any) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        yield


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "small.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def heard() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that a webhook may call, and what it was sent."""
    bodies: list[dict[str, Any]] = []

    class Ear(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Ear)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()
    server.server_close()


def automations() -> list[str]:
    with get_client(sync_client=True) as client:
        return [a.name for a in client.read_automations(limit=200, sort=AutomationSort.NAME_ASC)]


def test_deploying_twice_changes_nothing_and_people_are_told(
    workspace: Path, heard: tuple[str, list[dict[str, Any]]]
) -> None:
    url, bodies = heard
    asked = plan(config="small.yaml", workspace=workspace, cron="0 3 * * *", audit_cron="0 6 * * 0", webhook=url)
    names = apply(asked, {})
    assert names == ["raft-align/small", "raft-audit/small"]
    once = automations()
    assert apply(asked, {}) == names
    assert automations() == once
    assert {"raft: failed", "raft: promoted", "raft: stopped by a gate", "raft: awaiting approval"} <= set(once)
    with get_client(sync_client=True) as client:
        (schedule,) = client.read_deployment_by_name("raft-align/small").schedules
        assert schedule.schedule.cron == "0 3 * * *"  # type: ignore[union-attr]
    time.sleep(2)  # the server takes note of new automations
    announce(STOPPED, "run", "nightly-1", reason='kl 3 > 2, said "the gate"')
    deadline = time.monotonic() + 120
    while not bodies:
        assert time.monotonic() < deadline, "nobody was told"
        time.sleep(0.5)
    (body,) = bodies
    assert (body["about"], body["event"], body["name"]) == ("stopped by a gate", STOPPED, "nightly-1")
    assert body["facts"]["reason"] == 'kl 3 > 2, said "the gate"'


def test_without_a_webhook_nobody_is_called(workspace: Path) -> None:
    apply(plan(config="small.yaml", workspace=workspace), {})
    assert automations() == ["raft: a silent run goes on"]


def test_a_pool_must_be_there(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="prefect work-pool create nowhere"):
        apply(plan(config="small.yaml", workspace=workspace, pool="nowhere"), {})


def test_one_alignment_of_a_model_at_a_time(workspace: Path) -> None:
    with pytest.raises(StepError, match="cannot be taken"), model_slot("unknown", RUN, "queue", begun=False):
        pass
    apply(plan(config="small.yaml", workspace=workspace), {})
    with model_slot("raft-small", RUN, "refuse", begun=False):
        refused = model_slot("raft-small", RUN, "refuse", begun=False)
        with pytest.raises(RunBusyError, match="another alignment of raft-small"):
            refused.__enter__()
    with concurrency(limit_name("raft-small"), strict=True, timeout_seconds=60):
        pass
