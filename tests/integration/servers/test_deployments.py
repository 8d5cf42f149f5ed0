"""What ``raft deploy`` leaves on a real Prefect server: deployments, a strict limit, automations that tell people."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import AutomationSort
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.orchestration.automations import BLOCK, healing
from flows.orchestration.deployments import HEALED, apply, plan
from flows.orchestration.events import STOPPED, announce
from flows.orchestration.overlap import limit_name, model_slot
from raft_core.errors import ConfigError, RunBusyError, StepError

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

CONFIG = "name: small\npolicy: {model: m}\nprompts: {train: p.jsonl}\nscoring: {rewards: [{type: lexicon}]}\n"
RUN = FlowRun.model_construct(deployment_id=None, expected_start_time=None, auto_scheduled=False)


@pytest.fixture(autouse=True)
def on_the_server(prefect: Any) -> Iterator[None]:
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        yield


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "other.yaml").write_text(CONFIG.replace("small", "other"))
    return folder


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
    names = apply(asked, {}, print)
    assert names == ["raft-align/small", "raft-audit/small"]
    once = automations()
    assert apply(asked, {}, print) == names
    assert automations() == once
    assert {"raft: failed", "raft: promoted", "raft: stopped by a gate", "raft: awaiting approval"} <= set(once)
    with get_client(sync_client=True) as client:
        (schedule,) = client.read_deployment_by_name("raft-align/small").schedules
        assert schedule.schedule.cron == "0 3 * * *"  # type: ignore[union-attr]
    deadline = time.monotonic() + 300
    while not bodies:  # the server takes note of new automations in its own time
        assert time.monotonic() < deadline, "nobody was told"
        announce(STOPPED, "run", "nightly-1", reason='kl 3 > 2, said "the gate"')
        time.sleep(5)
    body = bodies[0]
    assert (body["about"], body["event"], body["name"]) == ("stopped by a gate", STOPPED, "nightly-1")
    assert body["facts"]["reason"] == 'kl 3 > 2, said "the gate"'


def test_another_deployment_silences_nobody_until_it_is_told_to(workspace: Path) -> None:
    apply(plan(config="small.yaml", workspace=workspace, webhook="http://127.0.0.1:9/"), {}, print)
    told = automations()
    apply(plan(config="other.yaml", workspace=workspace), {}, print)
    assert automations() == told
    for _ in range(2):
        apply(plan(config="other.yaml", workspace=workspace, no_webhook=True), {}, print)
        assert automations() == sorted(kept.name for kept in healing(HEALED))
    with pytest.raises(ValueError, match=BLOCK):
        Webhook.load(BLOCK)


def test_what_is_not_asked_for_any_more_is_removed_for_this_configuration_alone(workspace: Path) -> None:
    weekly = {"audit_cron": "0 6 * * 0", "gc_cron": "0 7 * * 0"}
    for name in ("small", "other"):
        apply(plan(config=f"{name}.yaml", workspace=workspace, **weekly), {}, print)
    said: list[str] = []
    apply(plan(config="small.yaml", workspace=workspace, audit_cron="0 6 * * 0"), {}, said.append)
    assert [line.split()[1].strip(",:") for line in said if line.startswith("removed")] == ["raft-gc/small"]
    with get_client(sync_client=True) as client:
        for name in ("raft-align/small", "raft-audit/small", "raft-align/other", "raft-audit/other", "raft-gc/other"):
            client.read_deployment_by_name(name)
        with pytest.raises(ObjectNotFound):
            client.read_deployment_by_name("raft-gc/small")


def test_another_workspace_does_not_take_a_deployment_over(workspace: Path, tmp_path: Path) -> None:
    apply(plan(config="small.yaml", workspace=workspace), {}, print)
    (tmp_path / "small.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError, match=f"(?s)expected: {workspace}.*prefect deployment delete raft-align/small"):
        apply(plan(config="small.yaml", workspace=tmp_path, cron="0 3 * * *"), {}, print)
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("raft-align/small")
    assert (found.parameters["workspace"], found.schedules) == (str(workspace), [])


def test_a_pool_must_be_there(workspace: Path) -> None:
    with pytest.raises(ConfigError, match="prefect work-pool create nowhere"):
        apply(plan(config="small.yaml", workspace=workspace, pool="nowhere"), {}, print)


def test_one_alignment_of_a_model_at_a_time(workspace: Path) -> None:
    with pytest.raises(StepError, match="raft-model-unknown"), model_slot("unknown", RUN, "queue", begun=False):
        pass
    apply(plan(config="small.yaml", workspace=workspace), {}, print)
    with model_slot("raft-small", RUN, "refuse", begun=False):
        refused = model_slot("raft-small", RUN, "refuse", begun=False)
        with pytest.raises(RunBusyError, match="another alignment of raft-small"):
            refused.__enter__()
    with concurrency(limit_name("raft-small"), strict=True, timeout_seconds=60):
        pass
