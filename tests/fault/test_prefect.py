"""Prefect's part: its retries go on at the right step, its view heals, its servers come and go."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import SecretStr

from flows.loop import align as loop
from flows.process.environment import DEFAULTS
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.launch import processes
from raft_core.records.run import hold, open_run, read_events, read_run
from tasks.loop.prepare import prepare

TITLE = "Prefect"
Make = Callable[..., Any]
Tried = Callable[..., None]


@pytest.mark.full
def test_the_temporary_server_ends_with_its_killed_owner(new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace()
    process = workspace.start("tasks.loop.evaluate:report:before:1")
    servers: list[psutil.Process] = []
    while process.poll() is None:
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
            servers = [c for c in children if "flows.orchestration.server" in c.cmdline()] or servers
        time.sleep(0.05)
    assert process.returncode == -signal.SIGKILL
    assert servers
    _, alive = psutil.wait_procs(servers, timeout=60)
    assert alive == []
    tried("the owner of Prefect's temporary server is killed", "the server ends within a second")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_flow_that_prefect_retries_goes_on_where_it_failed(
    new_workspace: Make, uninterrupted: Any, prefect_server: Any, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, since the fault must pass: the first select fails, and the flow is tried again."""
    workspace = new_workspace()
    for name, value in {**DEFAULTS, **workspace.environment}.items():
        monkeypatch.setenv(name, value)
    config = load_config(workspace.config)
    for example in examples.examples_of(config):
        examples.prepare(example)
    calls = []
    import tasks.loop.select

    real = tasks.loop.select.select

    def fails_once(it: Any) -> None:
        calls.append(it.number)
        if len(calls) == 1:
            raise ValueError("a passing error")
        real(it)

    monkeypatch.setattr(tasks.loop.select, "select", fails_once)
    run = open_run(workspace.path / "runs", "killed", config)
    session = loop.Session(run, workspace.path, SecretStr(f"sqlite:///{workspace.path}/mlflow.db"))
    with hold(run), temporary_settings({PREFECT_API_URL: prefect_server.url}):
        try:
            loop.align.with_options(retries=1, retry_delay_seconds=0)(session, prepare(run))
        finally:
            processes.stop()
    assert calls == [0, 0, 1]
    sampled = [event for event in read_events(run, "step") if event["step"] == "sample" and event["iteration"] == 0]
    assert [event["reused"] for event in sampled] == [False, True]
    assert workspace.digests() == uninterrupted[0]
    assert workspace.projections() == uninterrupted[1]
    tried("a flow run fails and Prefect retries it", "continues at the step that failed, the same end")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_server_marks_the_killed_flow_run_and_outlives_a_restart(
    prefect_server: Any, new_workspace: Make, uninterrupted: Any, tried: Tried
) -> None:
    workspace = new_workspace(PREFECT_API_URL=prefect_server.url)
    assert workspace.run("tasks.loop.evaluate:report:before:1").killed
    assert prefect_server.flow_runs()[-1] == "Running"
    process = workspace.start()
    samples = workspace.path / "runs" / "killed" / "iterations" / "000" / "tables" / "samples.parquet"
    while process.poll() is None and not samples.exists():
        time.sleep(0.01)
    prefect_server.kill()
    time.sleep(2)
    os.kill(process.pid, signal.SIGSTOP)  # the client asks for a minute; the server's start may take longer
    prefect_server.start()
    os.kill(process.pid, signal.SIGCONT)
    ended = workspace.wait(process)
    assert ended.code == 0, ended.said[-3000:]
    assert workspace.digests() == uninterrupted[0]
    assert prefect_server.flow_runs()[-2:] == ["Crashed", "Completed"]
    tried("a flow run whose process was killed, on a server", "marked as crashed at the next start")
    tried("a real Prefect server killed in the middle and started again", "the run continues; completed there too")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_server_that_is_away(new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace(PREFECT_API_URL="http://127.0.0.1:9/api")
    ended = workspace.run()
    assert ended.code == 1
    assert "Prefect's server at http://127.0.0.1:9/api cannot be reached" in ended.said
    tried("Prefect's server unreachable at the start", "refused with what to do")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_without_a_server_the_next_start_marks_it(new_workspace: Make, tmp_path: Path, tried: Tried) -> None:
    workspace = new_workspace(PREFECT_HOME=str(tmp_path))
    assert workspace.run("tasks.loop.evaluate:report:before:1").killed
    assert workspace.run("tasks.loop.sample:draw_prompts:before:1").killed
    run = read_run(workspace.path / "runs" / "killed")
    assert [event["state"] for event in read_events(run, "flow_run_ended")] == ["Crashed"]
    tried("a flow run whose process was killed, without a server", "marked as crashed at the next start")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_run_that_dies_after_it_finished(prefect_server: Any, new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace(PREFECT_API_URL=prefect_server.url)
    assert workspace.run("tasks.loop.sync:close:after:1").killed
    assert prefect_server.flow_runs()[-1] == "Running"
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    assert prefect_server.flow_runs()[-1] == "Completed"
    tried("a process killed between a run's end and Prefect's knowing it", "completed there at the next start")
