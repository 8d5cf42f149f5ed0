"""One alignment with every service that infra/compose.yaml starts, for real and without containers:
Prefect and MLflow on Postgres, DVC's remote and MLflow's artifacts in an S3 store."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from raft_core.records.run import Run, read_chain, read_events, read_run
from tasks.versioning.pointers import restore

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
SHORT = [
    "iterations=2",
    "sampling.prompts_per_iteration=16",
    "prompts.max_held_out=32",
    "evaluation.bootstrap_resamples=200",
]

Raft = Callable[..., str]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text(s3.dvc_config)
    return folder


@pytest.fixture(scope="module")
def raft(workspace: Path, s3: Any, mlflow: str, prefect_on_postgres: Any) -> Raft:
    """Run a command line as a worker would; it must succeed. Returns standard output."""
    environment = {
        **os.environ,
        **s3.environment,
        "RAFT_WORKSPACE": str(workspace),
        "MLFLOW_TRACKING_URI": mlflow,
        "PREFECT_API_URL": prefect_on_postgres.api,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "120",
        "RAFT_CACHE": str(workspace / "cache"),
    }

    def run(*arguments: str) -> str:
        program = str(Path(sys.executable).with_name("raft"))
        done = subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def aligned(raft: Raft, workspace: Path) -> Run:
    raft("align", str(TINY), "--name", "everything", *SHORT)
    return read_run(workspace / "runs" / "everything")


def test_nothing_had_to_be_warned_of(aligned: Run) -> None:
    assert read_events(aligned, "warning") == []


def test_prefect_on_postgres_has_the_run(aligned: Run, prefect_on_postgres: Any) -> None:
    assert {run["name"]: run["state_name"] for run in prefect_on_postgres.flow_runs("align")} == {
        "everything": "Completed"
    }


def test_mlflow_on_postgres_has_every_iteration_and_the_model(aligned: Run, mlflow: str) -> None:
    client = MlflowClient(mlflow)
    (run,) = client.search_runs([client.get_experiment_by_name("raft").experiment_id])  # type: ignore[union-attr]
    assert [point.step for point in client.get_metric_history(run.info.run_id, "reward")] == [-1, 0, 1]
    (finished,) = read_events(aligned, "finished")
    assert finished["registered"]
    version = client.get_model_version_by_alias("raft-tiny", "candidate")
    assert version.tags["raft.commit"] == read_chain(aligned)[finished["best"] + 1].digest


def test_mlflows_artifacts_lie_in_s3(aligned: Run, s3: Any) -> None:
    names = {"/".join(key.split("/")[-3:]) for key in s3.keys("mlflow")}
    assert {"iterations/000/commit.json", "iterations/001/report.json"} <= names


def test_weights_come_back_from_s3_alone(
    aligned: Run, s3: Any, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(workspace / ".dvc" / "cache")
    shutil.rmtree(aligned.folder(1) / "policy")
    restore(aligned.folder(1) / "policy.dvc", workspace)
    assert (aligned.folder(1) / "policy" / "adapter_model.safetensors").is_file()


def test_a_collection_empties_the_store_of_what_nobody_needs(
    aligned: Run, raft: Raft, s3: Any, workspace: Path
) -> None:
    rules = ("keep_runs=0", "keep_days=0", "remote=true")
    before = s3.keys("dvc")
    would = json.loads(raft("gc", *rules, "--json"))
    assert would["removed"] is False
    assert s3.keys("dvc") == before
    done = json.loads(raft("gc", *rules, "--json", "--yes"))
    assert done["policies"] == would["policies"]
    assert len(done["policies"]) >= 1
    assert len(before - s3.keys("dvc")) == done["objects"]
    assert json.loads(raft("gc", *rules, "--json"))["policies"] == []
    assert "deleted by gc" in raft("lineage", "verify", "everything")
