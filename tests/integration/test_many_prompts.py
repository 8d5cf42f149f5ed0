"""200,000 prompts: nothing of them is handed to Prefect, and what is done before the first sample is linear in them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.sorting import FlowRunSort

from benchmarks.prompts import write_prompts
from flows.loop.align import align_run
from flows.orchestration import server
from raft_core import examples
from raft_core.config.loading import load_config
from raft_core.config.prompts import PromptsConfig
from raft_core.prompts.splits import draw, split_prompts
from raft_core.records.run import read_chain, read_run

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
MANY = 200_000
SHORT = [
    "iterations=1",
    "sampling.prompts_per_iteration=8",
    "sampling.samples_per_prompt=2",
    "prompts.max_held_out=8",
    "prompts.held_out=null",
    "prompts.promotion=null",
    "evaluation.bootstrap_resamples=100",
    "evaluation.max_perplexity_texts=8",
    "versioning.enabled=false",
]


def stored_parameters() -> list[str]:
    """What Prefect's server keeps of every flow run."""
    with server.tied(), get_client(sync_client=True) as client:
        return [
            json.dumps(run.parameters) for run in client.read_flow_runs(limit=200, sort=FlowRunSort.START_TIME_DESC)
        ]


@pytest.mark.full
def test_two_hundred_thousand_prompts_are_aligned(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "prompts.txt", MANY)
    config = load_config(TINY, [*SHORT, f"prompts.train={path}"])
    for example in examples.examples_of(config):
        examples.prepare(example)
    ended = align_run(config, name="many", workspace=tmp_path, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    assert [commit.iteration for commit in read_chain(read_run(ended.run))] == [-1, 0]  # a gate may close on so few
    stored = stored_parameters()
    assert stored
    assert max(map(len, stored)) < 16_384
    assert not any("Review:" in parameters for parameters in stored)


def fastest(call: Callable[[], Any], times: int = 3) -> float:
    """Processor seconds of the fastest of ``times`` calls: other processes count little in it."""
    taken = []
    for _ in range(times):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken)


def test_splitting_and_drawing_take_linear_time(tmp_path: Path) -> None:
    """Eight times the prompts take about eight times as long; anything quadratic takes 64 times."""

    def seconds(count: int) -> float:
        path = write_prompts(tmp_path / f"{count}.txt", count)
        config = PromptsConfig(train=str(path), promotion_share=0.1)

        def work() -> None:
            splits = split_prompts(config, 0, Path)
            for iteration in range(2):
                draw(splits.train, 100, seed=0, iteration=iteration)

        return fastest(work)

    few, many = seconds(5_000), seconds(40_000)
    assert many < 24 * few, f"{few:.3f} s for 5,000, {many:.3f} s for 40,000"
