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
ANSWERED_S = 30.0


def raft(workspace: Any, *arguments: str) -> "subprocess.Popen[str]":
    dropped = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    environment: Mapping[str, str] = {**kept, **workspace.environment, "RAFT_WORKSPACE": str(workspace.path)}
    workspace.path.mkdir(exist_ok=True)
    return subprocess.Popen(
        [RAFT, *arguments], cwd=workspace.path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


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
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
    assert children
    return said


def test_a_run_is_stopped_in_sampling_and_in_training_and_resumed(
    new_workspace: Callable[..., Any], uninterrupted: Any, tried: Callable[..., None]
) -> None:
    workspace = new_workspace()
    iteration = workspace.path / "runs" / "killed" / "iterations" / "000" / "work"
    first = raft(workspace, "align", str(workspace.config), "--name", "killed")
    said = stopped(first, lambda: bool(list(iteration.glob("sample-*/shard*"))), signal.SIGTERM)
    assert "interrupted, everything finished is kept; resume with: raft resume killed" in said
    assert "Traceback" not in said
    tried("SIGTERM in the middle of sampling", "exit code 130, no process left; resumed, the same end")

    second = raft(workspace, "resume", "killed")
    said = stopped(second, lambda: bool(list(iteration.glob("finetune-*/rank-0.log"))), signal.SIGINT)
    assert "resume with: raft resume killed" in said
    assert "Traceback" not in said
    tried("Ctrl-C in the middle of training", "exit code 130, no process left; resumed, the same end")

    third = raft(workspace, "resume", "killed")
    _, said = third.communicate(timeout=300)
    assert third.returncode == 0, said
    assert workspace.digests() == uninterrupted[0]
    assert workspace.projections() == uninterrupted[1]


@pytest.mark.full
@pytest.mark.parametrize(
    ("number", "where"), [(signal.SIGINT, "sample-*/shard*"), (signal.SIGTERM, "finetune-*/rank*")]
)
def test_the_other_way_round(
    new_workspace: Callable[..., Any], tried: Callable[..., None], number: int, where: str
) -> None:
    workspace = new_workspace()
    work = workspace.path / "runs" / "killed" / "iterations" / "000" / "work"
    process = raft(workspace, "align", str(workspace.config), "--name", "killed")
    assert "resume with: raft resume killed" in stopped(process, lambda: bool(list(work.glob(where))), number)
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    tried(f"{name} in the middle of {'sampling' if 'shard' in where else 'training'}", "exit code 130, no process left")
