"""A run on disk, made through the records' own functions: a base and three iterations."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from raft_core.config.loading import config_digest
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import digest_of, json_digest, write_json
from raft_core.records.run import BASE, Run, open_run, record_event, write_commit
from raft_core.records.tables import PROMPTS, SAMPLES, SELECTED, to_table, write_table
from raft_core.types import Prompt, Sample, content_id

REWARDS = {BASE: 0.0, 0: 0.1, 1: 0.2, 2: 0.15}
PROMPT_TEXTS = ["one", "two", "three"]


@pytest.fixture
def base_policy(tmp_path: Path) -> Path:
    """A folder that stands for the initial policy."""
    folder = tmp_path / "base-policy"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"base weights")
    return folder


@pytest.fixture
def synthetic_run(tmp_path: Path, base_policy: Path) -> Run:
    """Base and iterations 0, 1, 2: K = 2 samples of each of 3 prompts, 3 selected; adapters of the base."""
    config = RaftConfig.model_validate(
        {
            "name": "made",
            "iterations": 3,
            "policy": {"model": str(base_policy)},
            "prompts": {"train": "prompts.txt"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
        }
    )
    run = open_run(tmp_path / "runs", "made", config)
    base_digest = digest_of(base_policy)
    identity = _commit(run, BASE, base_digest, None, None)
    for iteration in range(3):
        _tables(run, iteration)
        policy = run.folder(iteration) / "policy"
        policy.mkdir(parents=True)
        (policy / "adapter_model.safetensors").write_bytes(f"adapter {iteration}".encode())
        identity = _commit(run, iteration, digest_of(policy), base_digest, identity)
    record_event(run, "finished", status="stopped", best=1, reason="perplexity")
    return run


def _tables(run: Run, iteration: int) -> None:
    prompts = [Prompt.of(text, source="books" if text == "one" else "films") for text in PROMPT_TEXTS]
    samples = [
        Sample(f"{iteration}-{p.text}-{k}", p.prompt_id, k, k, "text", (1,), (2,), (-1.0,), (-1.0,), "stop")
        for p in prompts
        for k in range(2)
    ]
    selected = [
        {
            "sample_id": s.sample_id,
            "prompt_id": s.prompt_id,
            "source": s.source,
            "reward": 1.0,
            "rank": 1,
            "weight": 1.0,
            "prompt": "",
            "completion": s.completion,
            "prompt_token_ids": [1],
            "completion_token_ids": [2],
            "sampling_logprobs": [-1.0],
            "finish_reason": "stop",
        }
        for s in samples[::2]
    ]
    write_table(run.table(iteration, "prompts"), to_table(PROMPTS, prompts), PROMPTS)
    write_table(run.table(iteration, "samples"), to_table(SAMPLES, samples), SAMPLES)
    write_table(run.table(iteration, "selected"), to_table(SELECTED, selected), SELECTED)


def _commit(run: Run, iteration: int, policy: str, base: str | None, sampled_from: str | None) -> str:
    folder = run.folder(iteration)
    write_json(folder / "report.json", {"iteration": iteration, "reward": REWARDS[iteration]})
    names = ["tables/prompts.parquet", "tables/samples.parquet", "tables/selected.parquet", "policy", "report.json"]
    outputs = {name: digest_of(folder / name) for name in names if (folder / name).exists()}
    identity = content_id("policy", policy, base)
    write_commit(
        run,
        iteration,
        {
            "config": config_digest(run.config),
            "policy": {
                "identity": identity,
                "digest": policy,
                "base": base,
                "source": run.config.policy.model if iteration == BASE else None,
            },
            "sampled_from": sampled_from,
            "outputs": outputs,
            "steps": {} if iteration == BASE else _steps(iteration, outputs, sampled_from, identity),
            "numerics": {"device": "cpu"},
        },
    )
    return identity


def _steps(iteration: int, outputs: dict[str, str], sampled_from: str | None, made: str) -> dict[str, object]:
    prompts, samples, selected = (outputs[f"tables/{name}.parquet"] for name in ("prompts", "samples", "selected"))
    facts = {
        "sample": ({"policy": sampled_from, "prompts": prompts}, {"samples": samples}),
        "finetune": ({"policy": sampled_from, "selected": selected}, {"policy": outputs["policy"]}),
        "evaluate": ({"policy": made, "prompts": "0" * 64}, {}),
    }
    return {n: {"key": f"{n} {iteration}", "inputs": i, "outputs": o} for n, (i, o) in facts.items()}


@pytest.fixture
def forge_commit(synthetic_run: Run) -> Callable[[int, dict[str, object]], None]:
    """Change keys of an iteration's ``commit.json`` in place, its own seal (``content``) included."""

    def forge(iteration: int, changes: dict[str, object]) -> None:
        path = synthetic_run.folder(iteration) / "commit.json"
        changed = {**json.loads(path.read_bytes()), **changes}
        del changed["content"]
        write_json(path, {**changed, "content": json_digest(changed)})

    return forge
