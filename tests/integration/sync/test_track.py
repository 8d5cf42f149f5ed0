"""MLflow for real (sqlite): what is written, that nothing is written twice, and that gaps are filled."""

import json
import os
import shutil
import signal
import socket
import string
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.entities import Run as MlflowRun

from raft_core.errors import StepError
from raft_core.files.artifacts import write_bytes
from raft_core.records.best import decision_of
from raft_core.records.run import BASE, Run, open_run, read_commit, record_event, write_commit
from raft_core.records.tables import EVALUATION, to_table, write_table
from tasks.tracking.connection import label, shown
from tasks.tracking.registry import register
from tasks.tracking.runs import flat_params, metric_name, run_link, track
from tasks.versioning.pointers import version

AddIteration = Callable[[Run, int], None]


def fetch(client: MlflowClient, run_id: str | None) -> MlflowRun:
    assert run_id is not None
    return client.get_run(run_id)


def history(client: MlflowClient, run_id: str | None) -> dict[str, list[tuple[int, float]]]:
    """Every point of every metric."""
    run = fetch(client, run_id)
    return {
        name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
        for name in run.data.metrics
    }


def test_metrics_have_the_iteration_as_step(small_run: Run, uri: str, client: MlflowClient) -> None:
    found = history(client, track(small_run, uri))
    assert found["reward"] == [(-1, 0.0), (0, 0.1)]
    assert found["perplexity"] == [(-1, 59.0), (0, 60.0)]
    assert found["train_loss"] == [(0, 2.0)]
    assert found["seconds_sample"] == [(-1, 2.0), (0, 2.0)]
    assert found["seconds_validate"] == [(-1, 0.75), (0, 0.75)]
    assert found["tokens_sample"] == [(-1, 48.0), (0, 48.0)]
    assert found["slices/even"] == [(-1, 0.1), (0, 0.1)]
    assert found["rewards/lexicon"] == [(-1, 0.3), (0, 0.3)]
    assert "gold_reward" not in found
    assert "iteration" not in found
    assert len([name for name in found if name.startswith("slices/odd / other_-")]) == 1


def test_training_curves_go_on_over_the_iterations(
    small_run: Run, uri: str, client: MlflowClient, add_iteration: AddIteration
) -> None:
    add_iteration(small_run, 1)
    found = history(client, track(small_run, uri))
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4]
    assert found["train/learning_rate"][0] == (1, 1e-3)
    assert found["train/grad_norm"][3] == (4, 0.5)


def test_nothing_twice(small_run: Run, uri: str, client: MlflowClient, add_iteration: AddIteration) -> None:
    first = track(small_run, uri)
    before = history(client, first)
    assert track(small_run, uri) == first
    assert history(client, first) == before
    add_iteration(small_run, 1)
    for _ in range(2):
        assert track(small_run, uri) == first
    after = history(client, first)
    assert after["reward"] == [*before["reward"], (1, 0.2)]
    assert len(client.search_runs([fetch(client, first).info.experiment_id])) == 1
    assert len(fetch(client, first).inputs.dataset_inputs) == 4


def test_what_a_killed_call_left_out_is_filled_in(small_run: Run, uri: str, client: MlflowClient) -> None:
    base = read_commit(small_run, BASE)
    assert base is not None
    experiment = client.create_experiment("raft")
    cut = client.create_run(experiment, tags={"raft.run": small_run.name, "raft.run_digest": base.digest})
    client.log_batch(cut.info.run_id, metrics=[Metric("reward", 0.1, 5, 0), Metric("train/loss", 1.8, 5, 2)])
    run_id = track(small_run, uri)
    assert run_id == cut.info.run_id
    found = history(client, run_id)
    assert found["reward"] == [(-1, 0.0), (0, 0.1)]
    assert found["train/loss"] == [(1, 1.9), (2, 1.8)]


def test_seconds_that_are_known_late_are_added(small_run: Run, uri: str, client: MlflowClient) -> None:
    run_id = track(small_run, uri)
    record_event(small_run, "step", iteration=0, step="track", seconds=0.5, tokens=0, unit="tokens")
    track(small_run, uri)
    assert history(client, run_id)["seconds_track"] == [(0, 0.5)]


def test_params_tags_inputs_and_artifacts(small_run: Run, uri: str, client: MlflowClient, workspace: Path) -> None:
    pointers = version(small_run, 0, workspace, push=False).pointers
    write_bytes(small_run.folder(0) / "validation_samples.md", b"# report")
    run = fetch(client, track(small_run, uri))
    assert run.info.run_name == "small-run"
    assert run.data.params["sampling.samples_per_prompt"] == "3"
    assert run.data.params["scoring.rewards.1.weight"] == "0.5"
    assert run.data.params["validation.reward_min"] == "null"
    assert not [name for name in run.data.params if name.startswith(("tracking", "versioning"))]
    commit = read_commit(small_run, 0)
    assert commit is not None
    assert run.data.tags["raft.commit.000"] == commit.digest
    assert run.data.tags["dvc.000.policy"] == pointers["policy"]
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee" * 6 + "abcd"
    selected = next(d for d in run.inputs.dataset_inputs if d.dataset.name == "small-run/000/selected")
    tags = {tag.key: tag.value for tag in selected.tags}
    assert selected.dataset.digest == commit.outputs["tables/selected.parquet"][:36]
    assert tags["mlflow.data.context"] == "training"
    assert tags["raft.sha256"] == commit.outputs["tables/selected.parquet"]
    files = {a.path for a in client.list_artifacts(run.info.run_id, "iterations/000")}
    assert files == {
        f"iterations/000/{name}" for name in ("report.json", "commit.json", "validation.json", "validation_samples.md")
    }
    folder = client.download_artifacts(run.info.run_id, "iterations/000/validation.json")
    assert json.loads(Path(folder).read_bytes())["checks"][0]["check"] == "row_count"
    assert (workspace / "mlartifacts").is_dir()
    assert sorted(p.name for p in workspace.iterdir() if not p.name.startswith(".")) == [
        "mlartifacts",
        "mlflow.db",
        "runs",
    ]


def test_the_page_describes_the_run_and_shows_completions(small_run: Run, uri: str, client: MlflowClient) -> None:
    plain: dict[str, Any] = dict.fromkeys(EVALUATION.names, "text") | {"reward": 0.5, "gold_reward": None}
    lists = dict.fromkeys(("completion_token_ids", "sampling_logprobs", "base_logprobs", "components"), ())
    rows = [plain | lists | {"prompt": f"prompt {number}"} for number in range(30)]
    write_table(small_run.table(0, "evaluation"), to_table(EVALUATION, rows), EVALUATION)
    run_id = track(small_run, uri)
    tags = fetch(client, run_id).data.tags
    for fact in (small_run.name, "raft show small-run", "runs/small-run", "iteration 0", "samples.json"):
        assert fact in tags["mlflow.note.content"]
    assert tags["mlflow.user"]
    assert tags["mlflow.source.type"] == "LOCAL"
    assert "raft align" in tags["mlflow.source.name"]
    shown_tables = json.loads(tags["mlflow.loggedArtifacts"])
    assert {"path": "iterations/000/samples.json", "type": "table"} in shown_tables
    table = json.loads(Path(client.download_artifacts(run_id, "iterations/000/samples.json")).read_bytes())
    assert table["columns"] == ["iteration", "prompt", "completion", "reward", "gold_reward"]
    assert table["data"] == [["iteration 0", f"prompt {number}", "text", 0.5, None] for number in range(20)]
    client.set_tag(run_id, "mlflow.note.content", "what I think of it")
    track(small_run, uri)
    assert fetch(client, run_id).data.tags["mlflow.note.content"] == "what I think of it"


def test_a_link_to_the_run_needs_a_server(
    small_run: Run, uri: str, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = track(small_run, uri)
    record_event(small_run, "projected", iteration=0, projection="track", mlflow_run=run_id)
    assert run_link(small_run, uri) is None

    @contextmanager
    def to_sqlite(_: str) -> Iterator[MlflowClient]:
        yield client

    monkeypatch.setattr("tasks.tracking.runs.connected", to_sqlite)
    experiment = fetch(client, run_id).info.experiment_id
    link = run_link(small_run, "https://me:secret@host:5000/")
    assert link == f"https://host:5000/#/experiments/{experiment}/runs/{run_id}"


def test_pointers_that_come_later_are_tagged(small_run: Run, uri: str, client: MlflowClient, workspace: Path) -> None:
    assert "dvc.000.policy" not in fetch(client, track(small_run, uri)).data.tags
    version(small_run, 0, workspace, push=False)
    assert "dvc.000.policy" in fetch(client, track(small_run, uri)).data.tags


def test_the_status_follows_the_gates(
    workspace: Path, uri: str, client: MlflowClient, small_run: Run, add_iteration: AddIteration
) -> None:
    run = fetch(client, track(small_run, uri))
    assert (run.info.status, run.data.tags["raft.status"]) == ("RUNNING", "running")
    for iteration in range(1, small_run.config.iterations):
        add_iteration(small_run, iteration)
    run = fetch(client, track(small_run, uri))
    assert run.info.status == "FINISHED"
    decision = decision_of(small_run)
    assert decision is not None
    assert (run.data.tags["raft.status"], run.data.tags["raft.best"]) == ("stopped", label(decision.best))


def test_another_history_under_the_same_name_is_another_run(
    small_run: Run, uri: str, client: MlflowClient, add_iteration: AddIteration
) -> None:
    first = track(small_run, uri)
    commit = read_commit(small_run, 0)
    assert commit is not None
    write_commit(small_run, 0, {**commit.content, "outputs": {**commit.outputs, "policy": "0" * 64}})
    second = track(small_run, uri)
    assert second != first
    assert track(small_run, uri) == second


def test_two_runs_are_two(small_run: Run, workspace: Path, uri: str, add_iteration: AddIteration) -> None:
    other = open_run(workspace / "runs", "other", small_run.config)
    add_iteration(other, BASE)
    assert track(other, uri) != track(small_run, uri)


def test_nothing_is_committed_yet(workspace: Path, uri: str, small_run: Run) -> None:
    assert track(open_run(workspace / "runs", "empty", small_run.config), uri) is None


def test_a_server_that_is_away_is_told_soon(small_run: Run) -> None:
    start = time.monotonic()
    with pytest.raises(StepError, match=r"MLflow at http://127\.0\.0\.1:9 "):
        track(small_run, "http://user:secret@127.0.0.1:9")
    assert time.monotonic() - start < 120


def test_a_deleted_experiment_is_told(small_run: Run, uri: str, client: MlflowClient) -> None:
    client.delete_experiment(client.create_experiment("raft"))
    with pytest.raises(StepError, match="mlflow experiments restore"):
        track(small_run, uri)


def test_passwords_are_not_shown() -> None:
    assert shown("postgresql://raft:secret@db:5432/mlflow") == "postgresql://db:5432/mlflow"
    assert shown("sqlite:////tmp/a b/mlflow.db") == "sqlite:////tmp/a b/mlflow.db"


@pytest.fixture
def server(workspace: Path, empty_tracking_store: Path) -> Iterator[str]:
    """A real tracking server with a registry, on a free port of this machine."""
    shutil.copy(empty_tracking_store, workspace / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        "--backend-store-uri",
        f"sqlite:///{workspace}/server.db",
        "--artifacts-destination",
        str(workspace / "store"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=workspace,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.full
def test_a_server_takes_the_same(small_run: Run, server: str, workspace: Path, add_iteration: AddIteration) -> None:
    version(small_run, 0, workspace, push=False)
    run_id = track(small_run, server)
    client = MlflowClient(tracking_uri=server, registry_uri=server)
    before = history(client, run_id)
    assert before["reward"] == [(-1, 0.0), (0, 0.1)]
    add_iteration(small_run, 1)
    assert track(small_run, server) == run_id
    assert track(small_run, server) == run_id
    assert history(client, run_id)["reward"] == [*before["reward"], (1, 0.2)]
    assert len(client.list_artifacts(str(run_id), "iterations/000")) == 3
    registered = register(small_run, 0, server)
    assert registered == register(small_run, 0, server)
    assert client.get_model_version_by_alias("raft-small", "candidate").tags["raft.iteration"] == "0"
    assert not list((workspace / "store").rglob("*.safetensors"))


@pytest.mark.full
def test_two_processes_make_the_store_at_once(small_run: Run, workspace: Path, add_iteration: AddIteration) -> None:
    other = open_run(workspace / "runs", "other", small_run.config)
    add_iteration(other, BASE)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})\n"
        "from pathlib import Path; from raft_core.records.run import read_run\n"
        "from tasks.tracking.runs import track; from flows.process.environment import tracking_uri\n"
        "assert track(read_run(Path('runs') / sys.argv[1]), tracking_uri(Path('.')))\n"
    )
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen([*command, name], cwd=workspace) for name in ("small-run", "other")]
    assert [process.wait(timeout=900) for process in both] == [0, 0]
    assert sorted(path.name for path in workspace.glob("mlflow.db*")) == ["mlflow.db"]


def test_names_and_values_that_mlflow_does_not_take() -> None:
    assert metric_name("slices/plain-name_1.x y") == "slices/plain-name_1.x y"
    changed = metric_name("slices/größe: 1"), metric_name("slices/größe; 1")
    assert changed[0] != changed[1]
    assert all(set(name) <= set(string.ascii_letters + string.digits + "_-. /") for name in changed)
    assert len(metric_name("é" * 400)) == 250
    flat = flat_params({"a": {"b": None, "c": [1, 2]}, "d": [{"e": "x"}, {"e": "y" * 900}], "f": True})
    assert flat["a.b"] == "null"
    assert flat["a.c"] == "[1, 2]"
    assert (flat["d.0.e"], flat["f"]) == ("x", "true")
    assert len(flat["d.1.e"]) == 500
    assert flat["d.1.e"].endswith("…")
