"""Servers and remotes that are away: the run goes on, one warning says so, and everything is filled in later."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raft_core.records.run import read_events, read_run
from raft_core.records.tables import QUARANTINE, SCORED, read_table

TITLE = "Outages"
RAFT = str(Path(sys.executable).with_name("raft"))
Make = Callable[..., Any]
Tried = Callable[..., None]
Expected = tuple[dict[str, str], dict[str, Any]]


def raft(workspace: Any, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    dropped = {"MLFLOW_TRACKING_URI", "PREFECT_API_URL"}
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return subprocess.run(
        [RAFT, *arguments],
        cwd=workspace.path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**kept, **workspace.environment, "RAFT_WORKSPACE": str(workspace.path), **environment},
    )


def warnings(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("warning:")]


def mlflow_warnings(workspace: Any) -> list[str]:
    """What the run warned of, as far as it is about MLflow."""
    events = read_events(read_run(workspace.path / "runs" / "killed"), "warning")
    return [event["message"] for event in events if "MLflow" in event["message"]]


def align(workspace: Any, **environment: str) -> "subprocess.CompletedProcess[str]":
    workspace.path.mkdir(exist_ok=True)
    return raft(workspace, "align", str(workspace.config), "--name", "killed", **environment)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_mlflow_and_the_remote_are_away_from_start_to_end(
    new_workspace: Make, uninterrupted: Expected, tried: Tried
) -> None:
    workspace = new_workspace()
    workspace.path.mkdir()
    remote = workspace.path / ".dvc-remote"
    from tasks.versioning.pointers import ensure_repository

    ensure_repository(workspace.path)
    shutil.rmtree(remote)
    remote.write_text("not a folder")
    done = align(workspace, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert [line.split(" · ")[1].split(":")[0] for line in warnings(done.stderr)] == ["version", "track"], done.stderr
    assert workspace.digests() == uninterrupted[0]
    assert "raft sync killed" in done.stderr

    refused = raft(workspace, "sync", MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert refused.returncode == 4
    assert "MLflow at http://127.0.0.1:9 " in refused.stderr

    remote.unlink()
    done = raft(workspace, "sync")
    assert done.returncode == 0, done.stderr
    assert workspace.projections() == uninterrupted[1]
    assert "up to date" in raft(workspace, "sync", "killed").stderr
    tried("MLflow unreachable from the start to the end", "one warning; raft sync filled it in, without duplicates")
    tried("DVC's remote out of reach", "one warning; queued, raft sync pushed it")

    assert "nothing had to be done" in align(workspace).stdout


class Server:
    """A real MLflow server on loopback: state, since it is stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination",
            str(self.folder),
        ]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self.process = subprocess.Popen(
            command,
            env=environment,
            cwd=self.folder,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError("MLflow's server did not start")

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.kill()


def until(moment: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    while not moment() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_real_mlflow_server_is_killed_in_the_middle_and_comes_back(
    new_workspace: Make, server: Server, uninterrupted: Expected, tried: Tried, in_mlflow: Callable[..., Any]
) -> None:
    workspace = new_workspace(MLFLOW_TRACKING_URI=server.uri, MLFLOW_HTTP_REQUEST_TIMEOUT="120")
    process = workspace.start()
    iterations = workspace.path / "runs" / "killed" / "iterations"
    until(lambda: (iterations / "000" / "tables" / "samples.parquet").exists(), process)
    server.kill()
    until(lambda: (iterations / "001" / "tables" / "samples.parquet").exists(), process)
    os.kill(process.pid, signal.SIGSTOP)  # the server's start must not lose a race against the run's end
    server.start()
    os.kill(process.pid, signal.SIGCONT)
    ended = workspace.wait(process)
    assert ended.code == 0, ended.said[-3000:]
    assert in_mlflow(server.uri) == uninterrupted[1]["mlflow"]
    assert len(mlflow_warnings(workspace)) == 1, mlflow_warnings(workspace)
    tried("a real MLflow server killed in the middle, back before the end", "one warning; filled in by the run itself")


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_real_mlflow_server_is_killed_at_the_end(
    new_workspace: Make, server: Server, uninterrupted: Expected, tried: Tried, in_mlflow: Callable[..., Any]
) -> None:
    workspace = new_workspace(MLFLOW_TRACKING_URI=server.uri)
    process = workspace.start()
    until(lambda: (workspace.path / "runs/killed/iterations/001/commit.json").exists(), process)
    server.kill()
    ended = workspace.wait(process)
    assert ended.code == 0, ended.said[-3000:]
    assert len(mlflow_warnings(workspace)) == 1, mlflow_warnings(workspace)
    server.start()
    for _ in range(2):
        done = raft(workspace, "sync", MLFLOW_TRACKING_URI=server.uri)
        assert done.returncode == 0, done.stderr
    assert in_mlflow(server.uri) == uninterrupted[1]["mlflow"]
    tried(
        "a real MLflow server killed before the registration", "one warning; raft sync filled it in, without duplicates"
    )


FLAKY = """
import zlib
from pathlib import Path

def reward(prompt, completion):
    share = float((Path(__file__).parent / "share").read_text())
    if zlib.crc32((prompt + completion).encode()) % 100 < 100 * share:
        raise ConnectionError("the judge is away")
    return float(len(completion))
"""


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_reward_fails_on_some_of_its_calls_then_wholly(new_workspace: Make, tmp_path: Path, tried: Tried) -> None:
    share, file = tmp_path / "share", tmp_path / "flaky.py"
    file.write_text(FLAKY)
    reward = "{{type: function, function: '{}:reward', batched: false}}"
    scoring = "scoring: {{max_failed_share: {}, rewards: [" + reward + "], gold: []}}\n"
    checks = "validation: {max_quarantined_share: 0.5, max_length_drift: 100}\n"
    tolerant, strict, undisturbed = [new_workspace(checks + scoring.format(most, file)) for most in (0.5, 0.05, 0.05)]

    share.write_text("0.3")
    within = align(tolerant)
    assert within.returncode == 0, within.stderr
    run = read_run(tolerant.path / "runs" / "killed")
    for number in range(2):
        scored = read_table(run.table(number, "scored"), SCORED).to_pylist()
        failed = {row["sample_id"] for row in scored if "the judge is away" in row["reason"]}
        assert 0.1 < len(failed) / len(scored) < 0.5
        assert all((row["reward"] is None) == (row["sample_id"] in failed) for row in scored)
        quarantined = read_table(run.table(number, "quarantine"), QUARANTINE)["sample_id"].to_pylist()
        assert failed <= set(quarantined)
    tried("a reward fails on 30 % of its calls, within its budget", "quarantined and counted, the run ends well")

    share.write_text("1")
    over = align(strict)
    assert over.returncode == 4, over.stderr
    assert "scoring.max_failed_share" in over.stderr
    assert not (strict.path / "runs" / "killed" / "base" / "commit.json").exists()
    tried(
        "a reward fails on every call from the start",
        "exit code 4, no outage is taken for a measurement; resumed, the same end",
    )
    share.write_text("0")
    assert strict.run("tasks.loop.sample:draw_prompts:before:1").killed  # the base is evaluated
    for failing, fault in (
        (0.3, "a reward fails on 30 % of its calls, over its budget"),
        (1, "a reward fails on every call"),
    ):
        share.write_text(str(failing))
        over = align(strict)
        assert over.returncode == 4, over.stderr
        assert "resume with: raft resume killed" in over.stderr
        tried(fault, "exit code 4, what was sampled is kept; resumed when it worked again, the same end")
    share.write_text("0")
    resumed = raft(strict, "resume", "killed")
    assert resumed.returncode == 0, resumed.stderr
    steps = read_events(read_run(strict.path / "runs" / "killed"), "step")
    sampled = [event["reused"] for event in steps if event["step"] == "sample" and event["iteration"] == 0]
    assert sampled == [False, True, True]
    assert align(undisturbed).returncode == 0
    assert strict.digests() == undisturbed.digests()
