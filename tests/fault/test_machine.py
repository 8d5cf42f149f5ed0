"""What a machine does to a run: memory, disk, clock, another processor, another process."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from raft_core.records.run import read_events, read_run

TITLE = "The machine"
Make = Callable[..., Any]
Tried = Callable[..., None]
Expected = tuple[dict[str, str], dict[str, Any]]


def can_mount() -> bool:
    command = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        shutil.which("unshare") is not None and not subprocess.run(command, capture_output=True, check=False).returncode
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_training_process_is_killed_in_every_attempt(
    new_workspace: Make, uninterrupted: Expected, tried: Tried
) -> None:
    """SIGKILL, as the kernel's killer sends it, to the training process, whatever tries again."""
    workspace = new_workspace()
    ended = workspace.run("raft_core.launch.processes:_await_end:during@0.05:*:rank")
    assert ended.code != 0
    assert "ended by SIGKILL" in ended.said
    assert "lower finetuning.micro_batch_size" in ended.said
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    assert workspace.digests() == uninterrupted[0]
    tried(
        "SIGKILL as the out-of-memory killer sends it, to the training process, three times",
        "named with what to do; resumed, the same end",
    )


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_clock_is_set_back(new_workspace: Make, uninterrupted: Expected, tried: Tried) -> None:
    workspace = new_workspace()
    assert workspace.run("tasks.validation.check:check:after:2").killed
    earlier = type(workspace)(
        workspace.path, workspace.config, {**workspace.environment, "RAFT_CLOCK_SHIFT": "-400000"}
    )
    assert earlier.run("tasks.tracking.runs:_log_files:before:1").killed
    assert earlier.run("tasks.loop.commit:write_commit:before:1").killed
    times = [datetime.fromisoformat(e["time"]) for e in read_events(read_run(workspace.path / "runs" / "killed"))]
    assert all(time.utcoffset() == timedelta(0) for time in times)
    assert any(later < earlier for earlier, later in pairwise(times)), "the clock was not set back"
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    assert workspace.digests() == uninterrupted[0]
    assert workspace.projections() == uninterrupted[1]
    tried("the clock set back by days, and forward again", "the same end")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_another_numerics_class(new_workspace: Make, tried: Tried) -> None:
    workspace = new_workspace()
    assert workspace.run("tasks.loop.commit:write_commit:before:2").killed
    other = type(workspace)(workspace.path, workspace.config, {**workspace.environment, "RAFT_OTHER_NUMERICS": "1"})
    ended = other.run()
    assert ended.code == 0, ended.said[-3000:]
    events = (workspace.path / "runs" / "killed" / "events.jsonl").read_text()
    assert "another determinism fingerprint (torch " in events
    tried("resumed with another determinism fingerprint", "continues and says so")


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a file system")
@pytest.mark.parametrize(
    "kind", [pytest.param("full", marks=pytest.mark.full), pytest.param("read-only", marks=pytest.mark.soak)]
)
def test_a_disk_that_is_full_or_read_only(
    kind: str, new_workspace: Make, uninterrupted: Expected, tried: Tried
) -> None:
    """A namespace of its own with a small file system below the run's second iteration."""
    workspace = new_workspace()
    assert workspace.run("tasks.loop.sample:draw_prompts:before:2").killed
    below = workspace.path / "runs" / "killed" / "iterations" / "001"
    below.mkdir(parents=True, exist_ok=True)
    options = "size=16k" if kind == "full" else "ro"
    mount = f"mount -t tmpfs -o {options} none '{below}' && exec \"$@\""
    driver = [sys.executable, str(Path(__file__).parent / "killed_run.py")]
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *driver]
    done = subprocess.run(
        [*command, str(workspace.path), str(workspace.config), "killed"],
        env={**os.environ, **workspace.environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    expected = "No space left on device" if kind == "full" else "Read-only file system"
    assert expected in done.stderr
    ended = workspace.run()
    assert ended.code == 0, ended.said[-3000:]
    assert workspace.digests() == uninterrupted[0]
    assert workspace.projections() == uninterrupted[1]
    tried(
        "a full disk (a small tmpfs)" if kind == "full" else "a directory that became read-only",
        "named; resumed, the same end",
    )


FULL_REMOTE = """
mount -t tmpfs -o size=100k none "$1/.dvc-remote" || exit
raft align "$3" --name killed > "$1/align.said" 2>&1 || exit
cp -a "$1/.dvc-remote" "$1/when-full"
raft sync > "$1/refused.said" 2>&1; echo $? > "$1/refused.code"
mount -o remount,size=64m "$1/.dvc-remote"
"$2" -c "$4" "$1" || exit
raft sync > "$1/sync.said" 2>&1 || exit
cp -a "$1/.dvc-remote" "$1/with-space"
"""
HALF_AN_OBJECT = """
import sys
from pathlib import Path
cache, remote = (Path(sys.argv[1]) / name / "files" / "md5" for name in (".dvc/cache", ".dvc-remote"))
waiting = [path for path in cache.glob("??/*") if not (remote / path.relative_to(cache)).exists()]
path = min((path for path in waiting if path.suffix != ".dir"), key=lambda path: path.stat().st_size)
to = remote / path.relative_to(cache)
to.parent.mkdir(exist_ok=True)
to.write_bytes(path.read_bytes()[:100])
"""
"""As a store leaves it that does not write aside: an object that is cut off, under its whole name."""


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not can_mount(), reason="this machine lets nobody mount a file system")
def test_a_remote_that_is_full(new_workspace: Make, uninterrupted: Expected, tried: Tried) -> None:
    from tasks.versioning.pointers import ensure_repository

    workspace = new_workspace()
    workspace.path.mkdir()
    ensure_repository(workspace.path)
    told = [str(workspace.path), sys.executable, str(workspace.config), HALF_AN_OBJECT]
    plain = {
        name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    }
    environment = {
        **plain,
        **workspace.environment,
        "RAFT_WORKSPACE": str(workspace.path),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{plain['PATH']}",
    }
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", FULL_REMOTE, "sh", *told],
        cwd=workspace.path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    said = {path.stem: path.read_text() for path in sorted(workspace.path.glob("*.said"))}
    assert done.returncode == 0, (done.stderr, said)

    (warning,) = [line for line in said["align"].splitlines() if line.startswith("warning:")]
    assert "DVC did not push" in warning
    assert "No space left on device" in warning
    assert "ERROR" not in said["align"]
    assert "raft sync killed" in said["align"]
    assert (workspace.path / "refused.code").read_text().strip() == "4"
    assert workspace.digests() == uninterrupted[0]

    full = {path.name for path in (workspace.path / "when-full" / "files" / "md5").glob("??/*")}
    whole = {path.name for path in (workspace.path / "with-space" / "files" / "md5").glob("??/*")}
    assert 0 < len(full) < len(whole)
    assert not [name for name in full | whole if name.endswith(".tmp")]
    shutil.rmtree(workspace.path / ".dvc-remote")
    (workspace.path / "with-space").rename(workspace.path / ".dvc-remote")
    assert workspace.projections() == uninterrupted[1]
    tried("DVC's remote full in the middle of a push", "one warning; queued, raft sync pushed it when there was space")
    tried("an object cut off in DVC's remote before it was pushed", "not taken for the object: pushed whole")


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_runs_in_one_workspace_at_once(new_workspace: Make, uninterrupted: Expected, tried: Tried) -> None:
    workspace = new_workspace()
    first = workspace.start()
    other = type(workspace)(workspace.path, workspace.config, workspace.environment, "second")
    second = other.start()
    lock = workspace.path / "runs" / "killed" / "lock"
    while first.poll() is None and not (lock.exists() and lock.read_text()):
        time.sleep(0.05)
    raft = str(Path(sys.executable).with_name("raft"))
    environment = {**os.environ, **workspace.environment, "RAFT_WORKSPACE": str(workspace.path)}
    os.kill(first.pid, signal.SIGSTOP)  # it must not end before it is asked
    refused = subprocess.run([raft, "resume", "killed"], env=environment, capture_output=True, text=True, check=False)
    os.kill(first.pid, signal.SIGCONT)
    assert refused.returncode == 2, refused.stderr
    assert "run killed is in use" in refused.stderr
    assert f"process {first.pid} on {os.uname().nodename}" in refused.stderr
    tried("a second process resumes the same run", "refused, by name, host and process")
    assert workspace.wait(first).code == 0
    assert other.wait(second).code == 0, other.output.read_text()
    assert workspace.digests() == uninterrupted[0]
    chains = [
        (workspace.path / "runs" / name / "iterations/001/commit.json").read_bytes() for name in ("killed", "second")
    ]
    assert chains[0] == chains[1]
    tried("two runs of other names at once in one workspace", "both end as if alone")
