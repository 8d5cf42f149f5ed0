"""SIGTERM and Ctrl-C: a clean stop, every child ended, exit code 130, and the command that goes on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

TITLE = "Asked to stop"
RAFT = str(Path(sys.executable).with_name("raft"))
ANSWERED_S = 300.0


def raft(workspace: Any, *arguments: str) -> "subprocess.Popen[str]":
    dropped = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    environment: Mapping[str, str] = {**kept, **workspace.environment, "RAFT_WORKSPACE": str(workspace.path)}
    workspace.path.mkdir(exist_ok=True)
    return subprocess.Popen(
        [RAFT, *arguments],
        cwd=workspace.path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stopped(process: "subprocess.Popen[str]", moment: Callable[[], bool], number: int) -> str:
    """Send a signal at that moment; what the process said before it ended with 130, every child ended."""
    try:
        while process.poll() is None and not moment():
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=ANSWERED_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, said
    _, alive = psutil.wait_procs(children, timeout=60)
    assert alive == []
    assert children
    return said


STOPPED = "exit code 130, no process left; resumed, the same end"
MOMENTS = {"sampling": "sample-*/shard*", "training": "finetune-*/rank-0.log"}


def stop_twice(workspace: Any, first: tuple[int, str], second: tuple[int, str]) -> None:
    """Start, stop by a signal at a moment; resume, stop by another at another."""
    work = workspace.path / "runs" / "killed" / "iterations" / "000" / "work"
    commands = (["align", str(workspace.config), "--name", "killed"], ["resume", "killed"])
    for command, (number, moment) in zip(commands, (first, second), strict=True):
        process = raft(workspace, *command)
        said = stopped(process, lambda where=MOMENTS[moment]: bool(list(work.glob(where))), number)  # type: ignore[misc]
        assert "resume with: raft resume killed" in said
        assert "Traceback" not in said


@pytest.mark.timeout(1800)
def test_a_run_is_stopped_in_sampling_and_in_training(new_workspace: Callable[..., Any]) -> None:
    stop_twice(new_workspace(), (signal.SIGTERM, "sampling"), (signal.SIGINT, "training"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGINT, marks=pytest.mark.full), pytest.param(signal.SIGTERM, marks=pytest.mark.soak)],
)
def test_a_stopped_run_ends_the_same(
    new_workspace: Callable[..., Any], uninterrupted: Any, tried: Callable[..., None], number: int
) -> None:
    workspace = new_workspace()
    other = signal.SIGINT if number == signal.SIGTERM else signal.SIGTERM
    stop_twice(workspace, (number, "sampling"), (other, "training"))
    last = raft(workspace, "resume", "killed")
    _, said = last.communicate(timeout=900)
    assert last.returncode == 0, said
    assert workspace.digests() == uninterrupted[0]
    assert workspace.projections() == uninterrupted[1]
    names = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
    tried(f"{names[signal.Signals(number)]} in the middle of sampling", STOPPED)
    tried(f"{names[other]} in the middle of training", STOPPED)
