"""One finished run of the tiny example, and a command line whose ledger is each test's own."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.cli import exits
from flows.cli.app import app
from flows.loop.align import align_run
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.records.run import Run, read_run
from tasks.tracking.aliases import LEDGER_TAG
from tasks.tracking.connection import connected

ROOT = Path(__file__).parents[3]
SHORT = [
    "iterations=2",
    "sampling.prompts_per_iteration=16",
    "prompts.max_held_out=16",
    "versioning.push=false",
    "evaluation.bootstrap_resamples=200",
]
GATES = (
    "min_reward_gain",
    "max_gold_loss",
    "max_perplexity_rise",
    "min_distinct_1",
    "min_distinct_2",
    "max_kl",
    "max_truncation_rise",
    "max_slice_loss",
    "min_safe_share",
)
Raft = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the run ``one``: two iterations. Tests leave its run as it is."""
    folder = tmp_path_factory.mktemp("aligned")
    config = load_config(ROOT / "configs" / "tiny.yaml", SHORT)
    for example in examples.examples_of(config):
        examples.prepare(example)
    align_run(config, name="one", workspace=folder, tracking_uri=f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def workspace(aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That workspace, with a ledger and environment of this test alone."""
    monkeypatch.setenv("RAFT_WORKSPACE", str(aligned))
    monkeypatch.setenv("RAFT_LEDGER", str(tmp_path / "ledger.jsonl"))
    monkeypatch.setenv("RAFT_USER", "ann")
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    with connected(f"sqlite:///{aligned}/mlflow.db") as client:  # witness of another test's ledger
        client.delete_registered_model_tag("raft-tiny", LEDGER_TAG)
    return aligned


@pytest.fixture
def copied(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace that a test may spoil."""
    folder = tmp_path / "copied"
    shutil.copytree(workspace, folder, ignore=shutil.ignore_patterns("mlartifacts", "mlflow.db"))
    monkeypatch.setenv("RAFT_WORKSPACE", str(folder))
    return folder


@pytest.fixture
def run(aligned: Path) -> Run:
    return read_run(aligned / "runs" / "one")


@pytest.fixture
def raft(workspace: Path, capsys: pytest.CaptureFixture[str]) -> Raft:
    """One command line: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = exits.run_command(app, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


@pytest.fixture
def raft_json(raft: Raft) -> Callable[..., Any]:
    """One command line that must succeed, and the document that it prints."""

    def call(*arguments: str) -> Any:
        code, out, err = raft(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return call


@pytest.fixture
def entries(tmp_path: Path, workspace: Path) -> Callable[[], list[Entry]]:
    """What the ledger of this test holds now."""
    return lambda: FileLedger(tmp_path / "ledger.jsonl").entries()


@pytest.fixture
def rules(tmp_path: Path) -> Callable[..., str]:
    """Write a policy file whose gates are off but for ``gates``; returns its path."""

    def write(gates: dict[str, Any] | None = None, **more: Any) -> str:
        path = tmp_path / "promotion.yaml"
        open_gates = {**dict.fromkeys(GATES), "min_paired_prompts": 64, **(gates or {})}
        path.write_text(yaml.safe_dump({"gates": open_gates, "bootstrap_resamples": 200, **more}))
        return str(path)

    return write
