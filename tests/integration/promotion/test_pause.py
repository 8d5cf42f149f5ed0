"""Prefect's typed pause: the flow waits on a real server until its form is sent."""

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

from raft_core.records.ledger import Entry

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]


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


def test_the_form_decides(
    server: str, workspace: Path, rules: Callable[..., str], entries: Callable[[], list[Entry]], tmp_path: Path
) -> None:
    environment = {**os.environ, "PREFECT_API_URL": server, "PREFECT_HOME": str(tmp_path / "prefect")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    raft = [sys.executable, "-c", "from flows.cli import main; main()"]
    command = [*raft, "promote", "one@0", "--policy", rules(approvals=1), "--wait", "--wait-s", "600"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    waiting = wait_for(lambda: process.poll() is not None or paused(server))
    assert process.poll() is None, process.communicate()
    assert [entry.kind for entry in entries()] == ["requested"]
    form = {"run_input": {"approve": True, "by": "bob", "reason": "looks good"}}
    assert asked(f"{server}/flow_runs/{waiting['id']}/resume", form)["status"] == "ACCEPT"
    out, err = process.communicate(timeout=300)
    assert (process.returncode, "promoted" in out) == (0, True), err
    assert [entry.kind for entry in entries()] == ["requested", "approved", "promoted"]
    assert entries()[1].body["reason"] == "looks good"
