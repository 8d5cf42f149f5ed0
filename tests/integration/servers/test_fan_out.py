"""Beyond one process: shards on Ray workers, and a training of two nodes, with the bytes of one machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from raft_core.records.run import read_chain, read_run

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
SHORT = [
    "iterations=1",
    "sampling.prompts_per_iteration=24",
    "sampling.samples_per_prompt=8",
    "sampling.shard_prompts=1",
    "prompts.max_held_out=16",
    "evaluation.bootstrap_resamples=200",
    "versioning.enabled=false",
]
RAFT = str(Path(sys.executable).with_name("raft"))

TWO_NODES = """#!/bin/sh
# A launcher as a cluster would have one: the same torchrun on each of two "nodes", which meet at an address.
set -eu
for node in 0 1; do
    torchrun --nnodes=2 --nproc-per-node=1 --rdzv-backend=c10d --rdzv-id=test --rdzv-endpoint=127.0.0.1:{port} \\
        --local-addr=127.0.0.1 --module raft_core.launch.rank "$1" &
    pids="${{pids:-}} $!"
done
for pid in $pids; do wait "$pid"; done
"""


def start(workspace: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    workspace.mkdir(exist_ok=True)
    """One alignment with as many threads as there are cores, whereas Ray gives its workers one."""
    dropped = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS")
    plain = {k: v for k, v in os.environ.items() if k not in dropped}
    path = f"{Path(sys.executable).parent}{os.pathsep}{plain['PATH']}"
    return subprocess.Popen(
        [RAFT, "align", str(TINY), "--name", "run", "-q", *SHORT, *overrides],
        env={**plain, "PATH": path, "RAFT_WORKSPACE": str(workspace), **environment},
        cwd=workspace,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen[str]) -> None:
    try:
        _, told = process.communicate(timeout=600)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, told[-3000:]


def digests(workspace: Path) -> list[str]:
    return [commit.digest for commit in read_chain(read_run(workspace / "runs" / "run"))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


BUSY = re.compile(r"ray::(?!IDLE|\w*Agent)")
"""Ray calls a worker by what it does; its agents are no workers, and the cluster ends with them."""


def killed_worker(process: subprocess.Popen[str], at_work: Callable[[], bool]) -> bool:
    """Kill one of Ray's workers as soon as they are ``at_work``; whether one was."""
    while process.poll() is None:
        if at_work():
            for each in psutil.Process(process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    if BUSY.match(each.name()):
                        each.kill()
                        return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("one")
    finished(start(workspace))
    return workspace


def test_shards_on_ray_have_the_same_bytes_though_a_worker_dies(one_machine: Path, tmp_path: Path) -> None:
    patient = {"RAY_raylet_start_wait_time_s": "300"}
    process = start(tmp_path / "ray", "execution.shards=ray", "execution.workers=2", **patient)
    shards = tmp_path / "ray" / "runs" / "run" / "iterations" / "000" / "work"
    killed = killed_worker(process, lambda: bool(list(shards.glob("sample-*/shard-*.parquet"))))
    finished(process)
    assert killed, "no worker was at work when it should be killed"
    assert digests(tmp_path / "ray") == digests(one_machine)


COMPARING = """
import time
def reward(prompts, completions):
    time.sleep(1)
    mean = sum(map(len, completions)) / len(completions)
    return [len(text) - mean for text in completions]
"""
"""Slow enough to be killed at; a score depends on the batch that the sample comes in."""


def test_scoring_on_ray_has_the_same_bytes_though_a_worker_dies(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(COMPARING)
    more = [
        "sampling.samples_per_prompt=96",
        "sampling.shard_prompts=12",
        "finetuning.epochs=1",
        f"scoring={{rewards: [{{type: function, function: '{tmp_path / 'mine.py'}:reward'}}], gold: []}}",
    ]
    finished(start(tmp_path / "one", *more))
    patient = {"RAY_raylet_start_wait_time_s": "300"}
    process = start(tmp_path / "ray", "execution.shards=ray", "execution.workers=2", *more, **patient)
    work = tmp_path / "ray" / "runs" / "run" / "iterations" / "000" / "work"
    killed = killed_worker(process, lambda: bool(list(work.glob("score-*/shard-*.parquet"))))
    finished(process)
    assert killed, "no worker was at work when it should be killed"
    assert digests(tmp_path / "ray") == digests(tmp_path / "one")


def test_two_nodes_train_the_policy_that_two_ranks_of_one_machine_train(tmp_path: Path) -> None:
    ranks = ("finetuning.ranks=2", "finetuning.zero_stage=2")
    one_thread = {"OMP_NUM_THREADS": "1"}
    finished(start(tmp_path / "ranks", *ranks, **one_thread))
    launcher = tmp_path / "two-nodes.sh"
    launcher.write_text(TWO_NODES.format(port=free_port()))
    launcher.chmod(0o755)
    nodes = {"RAFT_LAUNCHER": str(launcher), "GLOO_SOCKET_IFNAME": "lo"}
    finished(start(tmp_path / "nodes", *ranks, **nodes, **one_thread))
    assert digests(tmp_path / "nodes") == digests(tmp_path / "ranks")
