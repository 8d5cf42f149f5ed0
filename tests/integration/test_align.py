"""The whole flow on the tiny example, with the real Prefect, Great Expectations, DeepSpeed and MLflow."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient

from flows.loop.align import AlignResult, align_run
from flows.process.environment import DEFAULTS
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.records.overview import view_run
from raft_core.records.run import read_chain, read_events, read_run

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
SHORT = [
    "iterations=2",
    "sampling.prompts_per_iteration=16",
    "prompts.max_held_out=32",
    "versioning.enabled=false",
    "evaluation.bootstrap_resamples=200",
]


def short_run(workspace: Path, name: str, *overrides: str) -> AlignResult:
    config = load_config(TINY, [*SHORT, *overrides])
    for example in examples.examples_of(config):
        examples.prepare(example)
    return align_run(config, name=name, workspace=workspace, tracking_uri=f"sqlite:///{workspace}/mlflow.db")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    short_run(folder, "first")
    return folder


def steps(workspace: Path, run: str, iteration: int) -> dict[str, dict[str, Any]]:
    events = read_events(read_run(workspace / "runs" / run), "step")
    return {event["step"]: event for event in events if event["iteration"] == iteration}


def test_a_run_that_differs_in_its_selector_samples_nothing_anew_at_first(workspace: Path) -> None:
    short_run(workspace, "selector", "selection={type: best_then_top, fraction: 0.5}")
    first = steps(workspace, "selector", 0)
    assert (first["sample"]["reused"], first["score"]["reused"]) == (True, True)
    assert not first["finetune"]["reused"]
    assert steps(workspace, "selector", -1)["evaluate"]["reused"]
    assert not steps(workspace, "selector", 1)["sample"]["reused"]
    chains = [read_chain(read_run(workspace / "runs" / name)) for name in ("first", "selector")]
    samples, selected = "tables/samples.parquet", "tables/selected.parquet"
    assert chains[0][1].outputs[samples] == chains[1][1].outputs[samples]
    assert chains[0][1].outputs[selected] != chains[1][1].outputs[selected]


def test_the_same_configuration_gives_the_same_bytes(workspace: Path, tmp_path: Path) -> None:
    short_run(tmp_path, "elsewhere")
    here = [commit.digest for commit in read_chain(read_run(workspace / "runs" / "first"))]
    there = [commit.digest for commit in read_chain(read_run(tmp_path / "runs" / "elsewhere"))]
    assert here == there


def test_a_run_that_failed_says_why_and_goes_on_with_its_own_number_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    import tasks.loop.select

    real, before = tasks.loop.select.select, torch.get_num_threads()

    def fails(_: Any) -> None:
        raise ValueError("no selection today")

    monkeypatch.setattr(tasks.loop.select, "select", fails)
    one = ("iterations=1", "sampling.prompts_per_iteration=8", "prompts.max_held_out=8")
    try:
        torch.set_num_threads(2)
        with pytest.raises(ValueError, match="no selection today"):
            short_run(tmp_path, "cut", *one)
        run = read_run(tmp_path / "runs" / "cut")
        view = view_run(run)
        assert (view.status, view.reason.split(";")[0]) == ("failed", "no selection today")
        *status, reason = mlflow_status(tmp_path, "cut")
        assert status == ["FAILED", "failed"]
        assert "raft show cut" in reason
        monkeypatch.setattr(tasks.loop.select, "select", real)
        torch.set_num_threads(1)
        assert short_run(tmp_path, "cut", *one).best is not None
        assert torch.get_num_threads() == 1
        assert mlflow_status(tmp_path, "cut")[:2] == ("FINISHED", "completed")
    finally:
        torch.set_num_threads(before)
    assert [commit.content["numerics"]["threads"] for commit in read_chain(run)] == [2, 2]
    done = [(e["step"], e["reused"]) for e in read_events(run, "step") if e["step"] in ("sample", "score")]
    assert done == [("sample", False), ("score", False), ("sample", True), ("score", True)]


def in_mlflow(workspace: Path, name: str) -> Any:
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    experiment = client.get_experiment_by_name("raft")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    return run


def mlflow_status(workspace: Path, name: str) -> tuple[str, str, str]:
    """How a run stands: MLflow's status, our tag, its reason."""
    run = in_mlflow(workspace, name)
    return run.info.status, run.data.tags["raft.status"], run.data.tags["raft.reason"]


def test_mlflow_knows_every_iteration_once(workspace: Path) -> None:
    client, run = MlflowClient(f"sqlite:///{workspace}/mlflow.db"), in_mlflow(workspace, "first")
    history = client.get_metric_history(run.info.run_id, "reward")
    assert [point.step for point in history] == [-1, 0, 1]
    assert run.data.params["sampling.samples_per_prompt"] == "4"
    assert {"perplexity", "kl", "distinct_1", "gold_reward", "seconds_sample", "acceptance"} <= run.data.metrics.keys()


@pytest.fixture
def prefect_server(tmp_path: Path) -> Iterator[str]:
    """A Prefect server of its own on a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **DEFAULTS, "PREFECT_HOME": str(tmp_path / "prefect")}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 600
        while not healthy(f"http://127.0.0.1:{port}/api/health"):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait(30)


def healthy(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def asked(url: str) -> list[dict[str, Any]]:
    request = Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.loads(answer.read())
    return found


@pytest.mark.full
def test_a_prefect_server_shows_the_run(prefect_server: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": prefect_server, "RAFT_WORKSPACE": str(tmp_path)}
    raft = str(Path(sys.executable).with_name("raft"))
    command = [raft, "align", str(TINY), "--name", "served", *SHORT, "iterations=1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    steps = ("sample", "score", "select", "finetune", "evaluate", "commit", "track")
    missing = {"served Completed", *(f"iteration 0 · {step} Completed" for step in steps)}
    deadline = time.monotonic() + 300
    while missing:  # the server writes the states of tasks down when it has time
        assert time.monotonic() < deadline, missing
        for kind in ("flow_runs", "task_runs"):
            missing -= {f"{run['name']} {run['state_name']}" for run in asked(f"{prefect_server}/{kind}/filter")}
        time.sleep(0.2)
    artifacts = {artifact["key"] for artifact in asked(f"{prefect_server}/artifacts/filter")}
    assert {"served-progress", "served-scorecard", "served-records"} <= artifacts
