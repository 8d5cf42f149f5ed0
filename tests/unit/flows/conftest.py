"""A run written by hand: two iterations that a reader of records cannot tell from a real one."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from raft_core.config.loading import check_config, config_digest
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import file_digest, write_json
from raft_core.records.run import BASE, Run, open_run, record_event, write_commit
from raft_core.records.tables import EVALUATION, to_table, write_table

HOSTILE = "[bold red]buy[/] \x1b[2J\x1b]0;owned\x07 line\r\nsecond \u202etxt.exe"
REWARDS = {BASE: 0.07, 0: 0.3, 1: 0.68}


def report_of(iteration: int) -> dict[str, Any]:
    """A scorecard with the names of the contract; the nested parts must not reach the JSON of a run."""
    reward = REWARDS[iteration]
    return {
        "iteration": iteration,
        "num_prompts": 2,
        "reward": reward,
        "reward_low": reward - 0.05,
        "reward_high": reward + 0.05,
        "gold_reward": 0.21,
        "perplexity": 63.7,
        "distinct_1": 0.31,
        "distinct_2": 0.8,
        "mean_length": 12.0,
        "truncation": 0.02,
        "kl": 0.0 if iteration == BASE else 0.4,
        "headroom": None if iteration == BASE else 0.5,
        "slices": {"short": 0.1},
        "rewards": {"lexicon": reward},
    }


@pytest.fixture
def small_config() -> RaftConfig:
    return check_config(
        {
            "name": "hand",
            "iterations": 2,
            "policy": {"model": "m"},
            "prompts": {"train": "p.jsonl"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
        },
        where="a test",
    )


@pytest.fixture
def write_run(tmp_path: Path, small_config: RaftConfig) -> Callable[..., Run]:
    """Write ``runs/NAME`` with ``iterations`` committed; ``finished`` adds the closing event."""

    def write(name: str = "hand", iterations: int = 2, finished: bool = True) -> Run:
        run = open_run(tmp_path / "runs", name, small_config)
        for iteration in range(BASE, iterations):
            write_json(run.folder(iteration) / "report.json", report_of(iteration))
            _write_evaluation(run, iteration)
            write_commit(run, iteration, _content(run, iteration))
            record_event(run, "step", iteration=iteration, step="sample", seconds=2.5, tokens=100)
            record_event(run, "step", iteration=iteration, step="evaluate", seconds=1.25, tokens=50)
        if finished:
            record_event(run, "finished", status="completed", best=1, reason="all 2 iterations are done")
        return run

    return write


def _content(run: Run, iteration: int) -> dict[str, Any]:
    base = iteration == BASE
    policy = {"identity": f"id{iteration}", "digest": f"{iteration + 2}" * 64, "base": None if base else "1" * 64}
    return {
        "config": config_digest(run.config),
        "policy": {**policy, "source": "[m]\x1b[2J" if base else None},
        "sampled_from": None if base else f"id{iteration - 1}",
        "steps": {},
        "outputs": {"report.json": file_digest(run.folder(iteration) / "report.json")},
    }


def _write_evaluation(run: Run, iteration: int) -> None:
    def row(number: int) -> Mapping[str, Any]:
        return {
            "prompt_id": f"p{number}",
            "group": "",
            "prompt": f"prompt {number}",
            "sample_id": f"s{number}",
            "completion": HOSTILE if number == 0 else f"iteration {iteration} says so",
            "completion_token_ids": [1],
            "finish_reason": "stop",
            "sampling_logprobs": [-1.0],
            "base_logprobs": [-1.0],
            "reward": REWARDS[iteration],
            "gold_reward": None,
            "components": [],
        }

    write_table(run.table(iteration, "evaluation"), to_table(EVALUATION, [row(0), row(1)]), EVALUATION)


@pytest.fixture
def raft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run one command line in the workspace ``tmp_path``: exit code, standard output, standard error."""
    from flows.cli import exits
    from flows.cli.app import app

    monkeypatch.setenv("RAFT_WORKSPACE", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*arguments: str) -> tuple[int, str, str]:
        code = exits.run_command(app, arguments)
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def raft_json(raft: Callable[..., tuple[int, str, str]]) -> Callable[..., Any]:
    """Run one command line with --json, which must succeed, and parse what it prints."""

    def run(*arguments: str) -> Any:
        code, out, err = raft(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return run
