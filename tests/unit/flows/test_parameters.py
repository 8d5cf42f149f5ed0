"""Flows and tasks get references: Prefect stores what a flow is given, and walks through what a task is given."""

import importlib
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow, Task
from prefect.utilities.collections import visit_collection
from pydantic import SecretStr

import flows
from flows.loop.session import Session
from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.gates import Decision
from raft_core.records.run import Run
from raft_core.records.steps import StepRecord
from raft_core.rewards.lexicon import LexiconRewardConfig
from raft_core.types import Artifact, Policy, Prompt
from tasks.loop.iteration import Iteration
from tasks.loop.prepare import Material
from tasks.loop.sample import ShardJob
from tasks.loop.score import ScoreJob

pytestmark = pytest.mark.slow

MANY = 200_000
MOST_BYTES = 16_384
"""Prefect refuses 524,288; what we hand over does not grow with the data."""
MOST_VISITED = 2_000

Arguments = dict[str, tuple[Any, ...]]


def declared(kind: type) -> dict[str, Any]:
    """Every flow, or task, of the project by its name."""
    modules = [importlib.import_module(m.name) for m in pkgutil.walk_packages(flows.__path__, "flows.")]
    return {value.name: value for module in modules for value in vars(module).values() if isinstance(value, kind)}


@pytest.fixture
def handed(write_run: Callable[..., Run], tmp_path: Path) -> Arguments:
    """Name of a flow or task → what it is called with, for a run of 200,000 prompts."""
    run = write_run(iterations=1, finished=False)
    policy = Policy(tmp_path, "p")
    prompts = tuple(Prompt(f"{i:032x}", f"secret prompt {i}") for i in range(MANY))
    material = Material(run, prompts, prompts[:256], policy)
    session = Session(run, tmp_path, SecretStr("sqlite:///mlflow.db"))
    it = Iteration(run, 0, policy, policy)
    table = Artifact(tmp_path / "prompts.parquet", "0" * 64)
    record = StepRecord("0" * 64, {"policy": "0" * 64}, {"samples": "0" * 64}, reused=False)
    job = ShardJob(table, policy, TextPolicyConfig(model="m"), SamplingConfig(), 8, 1, tmp_path, {"threads": 2})
    score_job = ScoreJob(
        table, table, (LexiconRewardConfig(),), (("lexicon", "0" * 64),), {"threads": 2}, MANY, 0.05, tmp_path, tmp_path
    )

    def progress(count: int) -> None:
        """Closes over the prompts, as a step's own functions may."""
        assert material.train

    return {
        "align": (session, material),
        "shards": (job, progress),
        "score shards": (score_job, progress),
        "promote": ("run@1", "me", "why", None, lambda: progress(1)),
        "raft-align": ("configs/reviews.yaml", str(tmp_path), ("seed=1",)),
        "raft-audit": (str(tmp_path),),
        "raft-promotion": (str(tmp_path), "run@1"),
        "raft-gc": (str(tmp_path), ("keep_runs=5",)),
        "sample": (it, material, session),
        "score": (it, session),
        "validate": (it, "selected", material, session),
        "select": (it, session),
        "finetune": (it, session),
        "evaluate": (it, policy, material, session),
        "commit": (it, {"sample": record}, session),
        "version": (it, [0], session),
        "track": (it, [0], session),
        "merge": (it, session),
        "finish": (Decision(False, "completed", "done", 0), session),
        "shard": (job, 7),
        "score shard": (score_job, 7),
    }


def test_what_prefect_stores_of_a_flow_run_is_small_and_holds_no_prompt(handed: Arguments) -> None:
    known = declared(Flow)
    assert known.keys() <= handed.keys(), "say here what the new flow is handed"
    for name, flow in known.items():
        named = dict(zip(flow.parameters.properties, handed[name], strict=False))
        stored = json.dumps(flow.serialize_parameters(named), default=str)
        assert len(stored.encode()) < MOST_BYTES, name
        assert "secret prompt" not in stored, name


def test_no_task_makes_prefect_walk_through_the_prompts(handed: Arguments) -> None:
    known = declared(Task)
    assert known.keys() <= handed.keys(), "say here what the new task is handed"
    for name in known:
        visited = []
        visit_collection(list(handed[name]), visit_fn=visited.append, max_depth=-1, return_data=False)
        assert len(visited) < MOST_VISITED, name
