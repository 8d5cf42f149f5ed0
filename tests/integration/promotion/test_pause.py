"""Promotions on a real Prefect server: each is a flow run there, and can wait until its form is sent."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from raft_core.promotion.ledger import Entry

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on a free loopback port."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/api"
    try:
        wait_for(lambda: asked(f"{url}/health", method="GET") is True)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def asked(url: str, document: Any = None, method: str = "POST") -> Any:
    data = None if method == "GET" else json.dumps(document or {}).encode()
    request = Request(url, data=data, headers={"Content-Type": "application/json"}, method=method)
    try:
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")
    except OSError:
        return None


def wait_for(true: Callable[[], Any], limit_s: float = 300) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


def paused(server: str) -> Any:
    wanted = {"flow_runs": {"state": {"type": {"any_": ["PAUSED"]}}}}
    return (asked(f"{server}/flow_runs/filter", wanted) or [None])[0]


@pytest.fixture
def waiting(
    server: str, workspace: Path, rules: Callable[..., str], entries: Callable[[], list[Entry]], tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """A promotion that waits for a person, and its flow run."""
    environment = {**os.environ, "PREFECT_API_URL": server, "PREFECT_HOME": str(tmp_path / "prefect")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    raft = [sys.executable, "-c", "from flows.cli.app import main; main()"]
    command = [*raft, "promote", "one@0", "--rules", rules(approvals=1), "--wait", "--wait-s", "600"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        flow_run = wait_for(lambda: process.poll() is not None or paused(server))
        assert process.poll() is None, process.communicate()
        assert [entry.kind for entry in entries()] == ["requested"]
        yield process, flow_run
        process.kill()


def test_the_form_decides(waiting: Any, server: str, entries: Callable[[], list[Entry]]) -> None:
    process, flow_run = waiting
    form = {"run_input": {"approve": True, "by": "bob", "reason": "looks good"}}
    assert asked(f"{server}/flow_runs/{flow_run['id']}/resume", form)["status"] == "ACCEPT"
    out, err = process.communicate(timeout=900)
    assert (process.returncode, "is the champion of raft-tiny (entry 3), approved by bob" in out) == (0, True), err
    assert [entry.kind for entry in entries()] == ["requested", "approved", "promoted"]
    assert entries()[1].body["reason"] == "looks good"


@pytest.mark.parametrize(("act", "code", "status"), [("approve", 0, "Promoted"), ("reject", 3, "Rejected")])
def test_a_command_decides_and_the_flow_goes_on(
    act: str,
    code: int,
    status: str,
    waiting: Any,
    server: str,
    raft: Callable[..., tuple[int, str, str]],
    rules: Callable[..., str],
) -> None:
    process, flow_run = waiting
    policy = ["--rules", rules(approvals=1)] if act == "approve" else []
    assert raft(act, "1", "--by", "bob", *policy)[0] == 0
    out, err = process.communicate(timeout=900)
    assert (process.returncode, f"request 1 was {act.rstrip('e')}ed by bob" in out + err) == (code, True), out + err
    assert asked(f"{server}/flow_runs/{flow_run['id']}", method="GET")["state_name"] == status


def test_each_promotion_shows_on_the_server_without_its_addresses(
    server: str, raft: Callable[..., tuple[int, str, str]], rules: Callable[..., str], tmp_path: Path
) -> None:
    with temporary_settings({PREFECT_API_URL: server}):
        assert raft("promote", "one@0", "--rules", rules(), "--reason", "a first one")[0] == 0
        code, out, _ = raft("promote", "one@1", "--rules", rules({"min_paired_prompts": 10**6}))
        assert (code, "is refused" in out) == (3, True)
        assert raft("promote", "one@1", "--rules", rules(), "--dry-run")[0] == 0
    wanted = {"flow_runs": {"name": {"like_": "promote one@"}}, "sort": "EXPECTED_START_TIME_ASC"}
    first, second = asked(f"{server}/flow_runs/filter", wanted)[-2:]
    assert (first["name"], first["state_name"]) == ("promote one@0", "Promoted")
    assert (second["name"], second["state_name"]) == ("promote one@1", "Refused")
    assert (first["parameters"]["by"], first["parameters"]["reason"]) == ("ann", "a first one")
    assert str(tmp_path / "ledger.jsonl") not in json.dumps(first)


def test_a_server_that_is_away_costs_a_warning_and_none_is_started(
    raft: Callable[..., tuple[int, str, str]], rules: Callable[..., str], entries: Callable[[], list[Entry]]
) -> None:
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        code, _, told = raft("promote", "one@0", "--rules", rules())
    assert (code, "http://127.0.0.1:9/api cannot be reached" in told) == (0, True)
    assert [entry.kind for entry in entries()] == ["promoted"]
