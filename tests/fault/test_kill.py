"""A run that is killed at every step in turn, and taken up again each time, ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from raft_core.records.artifacts import file_digest

CONFIG = Path(__file__).parents[2] / "configs" / "tiny.yaml"
DRIVER = Path(__file__).parent / "killed_run.py"

POINTS = [
    "tasks.evaluate:_table:before:1",  # the base is being evaluated
    "tasks.commit:write_commit:before:1",  # the base is evaluated, not committed
    "tasks.commit:write_commit:after:1",  # committed, its scratch still there
    "tasks.shards:_keep:after:1",  # in the middle of sampling
    "raft_core.records.artifacts:fsync_folder:before:1",  # a file is renamed, not yet durable
    "tasks.score:score:before:1",
    "tasks.check:check:after:2",  # scored and validated
    "tasks.select:select:after:1",
    "tasks.finetune:finetune:during:1",  # a training process is starting or at work
    "tasks.finetune:finetune:after:1",
    "tasks.evaluate:report:before:1",
    "tasks.version:version:before:1",
    "tasks.track:track:during:1",
    "tasks.track:track:after:1",
    "tasks.register:register:before:1",
]


def configure(folder: Path) -> Path:
    """The tiny world with two iterations, small batches and several shards."""
    path = folder / "killed.yaml"
    path.write_text(
        f"extends: {CONFIG}\nname: killed\niterations: 2\n"
        "sampling: {prompts_per_iteration: 16, shard_prompts: 4}\n"
        "gates: {convergence_window: null, max_kl: null, max_perplexity_rise: null, min_headroom: null}\n"
    )
    return path


def run(workspace: Path, config: Path, *points: str) -> subprocess.CompletedProcess[str]:
    """One process, and whatever it leaves behind: Prefect's temporary server outlives a killed owner."""
    workspace.mkdir(exist_ok=True)
    command = [sys.executable, str(DRIVER), str(workspace), str(config), "killed", *points]
    told = workspace / "output"
    with told.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        code = process.wait(300)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, code, "", told.read_text())


def digests(workspace: Path) -> dict[str, str]:
    """Every byte that a commit covers, and the commits themselves."""
    root = workspace / "runs" / "killed"
    kept = [p for p in sorted(root.rglob("*")) if p.is_file() and {"tables", "policy"} & set(p.parts)]
    kept += sorted(root.rglob("commit.json")) + sorted(root.rglob("report.json"))
    return {p.relative_to(root).as_posix(): file_digest(p) for p in kept}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    config = configure(folder)
    done = run(folder / "workspace", config)
    assert done.returncode == 0, done.stderr[-3000:]
    return config, digests(folder / "workspace")


def killed_at(points: list[str], workspace: Path, config: Path) -> None:
    for point in points:
        killed = run(workspace, config, point)
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached: {killed.stderr[-2000:]}"
    done = run(workspace, config)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.timeout(900)
def test_killed_in_sampling_training_and_tracking(uninterrupted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    config, expected = uninterrupted
    short = [p for p in POINTS if any(name in p for name in ("_keep", "finetune:during", "track:during"))]
    killed_at(short, tmp_path / "workspace", config)
    assert digests(tmp_path / "workspace") == expected


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_killed_at_every_step(uninterrupted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    config, expected = uninterrupted
    killed_at(POINTS, tmp_path / "workspace", config)
    assert digests(tmp_path / "workspace") == expected


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(uninterrupted: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    """The whole process group dies, a training child too, at moments drawn from a printed seed."""
    config, expected = uninterrupted
    seed = int(os.environ.get("RAFT_FAULT_SEED", "20230413"))
    print(f"RAFT_FAULT_SEED={seed}")
    moments = random.Random(seed)
    workspace = tmp_path / "workspace"
    workspace.mkdir()
    for _ in range(6):
        command = [sys.executable, str(DRIVER), str(workspace), str(config), "killed"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(moments.uniform(8, 30))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run(workspace, config)
    assert done.returncode == 0, done.stderr[-3000:]
    assert digests(workspace) == expected
