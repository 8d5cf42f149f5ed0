"""Runs whose every sample and reward is known by hand: 3 prompts × K 2, of which the better one is selected.

reward(prompt p, k) = p + k / 2, so k = 1 wins; but in iteration 0 the sample (two, 1) is quarantined, so (two, 0) does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from raft_core.config.loading import check_config, config_digest
from raft_core.config.run import RaftConfig
from raft_core.files.artifacts import digest_of, write_bytes, write_json
from raft_core.records.run import BASE, Run, open_run, record_event, write_commit
from raft_core.records.tables import SCHEMAS, to_table, write_table
from raft_core.types import Prompt, content_id

TEXTS = ("one", "two", "three")
K = 2
MakeRun = Callable[..., Run]


def prompt(text: str) -> Prompt:
    return Prompt.of(text, source="books" if text == "one" else "films")


def sample_id(run_key: str, iteration: int, text: str, k: int) -> str:
    return content_id("sample", run_key, iteration, text, k)


def completion(iteration: int, text: str, k: int) -> str:
    return f"{text} says {k} in {iteration}"


def rows_of(key: str, iteration: int, texts: Sequence[str], bonus: float) -> dict[str, list[dict[str, Any]]]:
    samples, scored, selected, quarantine = [], [], [], []
    for number, text in enumerate(texts):
        p = prompt(text)
        bad = [iteration == 0 and text == "two" and k == 1 for k in range(K)]
        for k in range(K):
            reward = None if bad[k] else number + k / 2 + bonus
            name = sample_id(key, iteration, text, k)
            common = {"sample_id": name, "prompt_id": p.prompt_id, "k": k, "source": "policy"}
            told = {"status": "quarantined" if bad[k] else "ok", "reason": "the reward raised" if bad[k] else ""}
            samples.append(
                {
                    **common,
                    "seed": k,
                    "completion": completion(iteration, text, k),
                    "prompt_token_ids": [1],
                    "completion_token_ids": [2],
                    "logprobs": [-1.0],
                    "sampling_logprobs": [-1.0],
                    "finish_reason": "stop",
                    "status": "ok",
                    "reason": "",
                }
            )
            components = [] if bad[k] else [{"name": "lexicon", "score": reward}]
            scored.append({**common, **told, "reward": reward, "components": components})
            if bad[k]:
                quarantine.append(
                    {
                        "sample_id": name,
                        "prompt_id": p.prompt_id,
                        "stage": "scored",
                        "check": "scoring",
                        "reason": "the reward raised",
                    }
                )
        best = max(k for k in range(K) if not bad[k])
        chosen = samples[-K:][best]
        selected.append({**chosen, "reward": scored[-K:][best]["reward"], "rank": 1, "weight": 1.0, "prompt": text})
    checks = [
        {
            "suite": "scored",
            "check": "scoring",
            "level": "row",
            "passed": not quarantine,
            "observed": "seen",
            "expected": "all",
            "failed_rows": len(quarantine),
        }
    ]
    return {
        "prompts": [vars_of(prompt(t)) for t in texts],
        "samples": samples,
        "scored": scored,
        "selected": selected,
        "quarantine": quarantine,
        "validation": checks,
    }


def vars_of(p: Prompt) -> dict[str, Any]:
    return {name: getattr(p, name) for name in ("prompt_id", "text", "group", "source", "reference")}


def write_rows(run: Run, iteration: int, rows: dict[str, list[dict[str, Any]]]) -> None:
    for name, some in rows.items():
        write_table(run.table(iteration, name), to_table(SCHEMAS[name], some), SCHEMAS[name])


def config_of(**parts: Any) -> RaftConfig:
    plain = {
        "name": "traced",
        "policy": {"model": "base-model"},
        "prompts": {"train": "prompts.txt"},
        "sampling": {"prompts_per_iteration": 3, "samples_per_prompt": K},
        "scoring": {"rewards": [{"type": "lexicon"}]},
        **parts,
    }
    return check_config(plain, where="a test")


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """``make_run(name, iterations=2, key=…, texts=…, bonus=…, base=…)``; runs of one ``key`` have the same samples.

    ``base``: the digest of the policy that it starts from.
    """

    def make(
        name: str = "first",
        *,
        iterations: int = 2,
        key: str = "key",
        texts: Sequence[Sequence[str]] | None = None,
        bonus: float = 0.0,
        base: str = "b" * 64,
        **config: Any,
    ) -> Run:
        run = open_run(tmp_path / "runs", name, config_of(**config))
        write_rows(run, BASE, {"prompts": [vars_of(Prompt.of("held out"))]})
        made = _commit(run, BASE, base, None)
        for iteration in range(iterations):
            rows = rows_of(key, iteration, TEXTS if texts is None else texts[iteration], bonus)
            write_rows(run, iteration, rows)
            weights = run.folder(iteration) / "policy" / "adapter_model.safetensors"
            write_bytes(weights, f"weights {key} {iteration} {bonus}".encode())
            made = _commit(run, iteration, digest_of(weights.parent), made)
            record_event(run, "step", iteration=iteration, step="commit", seconds=0.1)
        registered = {"name": "raft-traced", "version": "4", "alias": "candidate"}
        record_event(run, "finished", status="completed", best=iterations - 1, reason="done", registered=registered)
        return run

    return make


def _commit(run: Run, iteration: int, policy: str, sampled_from: str | None) -> str:
    """Commit the iteration that made ``policy`` (a digest); returns that policy's identity."""
    folder = run.folder(iteration)
    write_json(folder / "report.json", {"iteration": iteration, "reward": 0.5})
    names = [f"tables/{name}.parquet" for name in SCHEMAS] + ["policy", "report.json"]
    outputs = {name: digest_of(folder / name) for name in names if (folder / name).exists()}
    identity = content_id("policy", policy, None)
    write_commit(
        run,
        iteration,
        {
            "config": config_digest(run.config),
            "sampled_from": sampled_from,
            "outputs": outputs,
            "policy": {"identity": identity, "digest": policy, "base": None, "source": None},
            "steps": {"sample": {"key": f"k{iteration}", "code": "c" * 64, "inputs": {}, "outputs": {}}},
            "numerics": {"device": "cpu"},
        },
    )
    return identity


@pytest.fixture
def corrupt() -> Callable[[Path], None]:
    """Flip one bit near the end of a file, as a bad disk does."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.chmod(0o644)
        path.write_bytes(data)

    return flip
