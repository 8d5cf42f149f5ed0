"""Shards: fixed composition, durable, halved when memory runs out."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest

from flows.loop.fan_out import shard
from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import StepError
from raft_core.policies.text.model import numerics
from raft_core.types import Artifact, Policy, Progress, Prompt, Sample, content_id
from tasks.loop.sample import ShardJob, batch_plan, check_numerics, sample_shards

PROMPTS = [Prompt.of(f"prompt {i}") for i in range(10)]
SAMPLING = SamplingConfig(samples_per_prompt=3, shard_prompts=4)


class CountingPolicy:
    """Samples text that names its prompt; fits ``room`` prompts at once."""

    def __init__(self, room: int = 100) -> None:
        self.room = room
        self.batches: list[int] = []

    def sample(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingConfig,
        *,
        samples_per_prompt: int,
        seed: int,
        progress: Progress | None = None,
    ) -> list[Sample]:
        self.batches.append(len(prompts))
        if len(prompts) > self.room:
            raise MemoryError
        return [
            Sample(
                content_id(p.prompt_id, k), p.prompt_id, k, seed, f"{p.text}/{k}", (1,), (2,), (-0.5,), (-0.5,), "stop"
            )
            for p in prompts
            for k in range(samples_per_prompt)
        ]

    def logprobs(self, samples: Sequence[Sample], *, temperature: float) -> list[list[float]]:
        raise AssertionError("not sampled")

    def text_logprobs(self, texts: Sequence[str]) -> list[list[float]]:
        raise AssertionError("not sampled")


def run(policy: CountingPolicy, folder: Path, sampling: SamplingConfig = SAMPLING) -> pa.Table:
    shards = sample_shards(
        lambda: nullcontext(policy),
        PROMPTS,
        sampling,
        samples_per_prompt=3,
        seed=1,
        folder=folder,
        progress=lambda n: None,
    )
    return pa.concat_tables(shards)


def test_every_prompt_has_k_samples_in_order(tmp_path: Path) -> None:
    table = run(CountingPolicy(), tmp_path)
    expected = [f"prompt {i}/{k}" for i in range(10) for k in range(3)]
    assert table["completion"].to_pylist() == expected


def test_a_finished_shard_is_not_sampled_again(tmp_path: Path) -> None:
    whole = run(CountingPolicy(), tmp_path / "whole")
    policy = CountingPolicy()
    shards = sample_shards(
        lambda: nullcontext(policy),
        PROMPTS,
        SAMPLING,
        samples_per_prompt=3,
        seed=1,
        folder=tmp_path / "cut",
        progress=lambda n: None,
    )
    next(shards)
    next(shards)
    shards.close()
    again = CountingPolicy()
    assert run(again, tmp_path / "cut").equals(whole)
    assert again.batches == [2]


def test_a_damaged_shard_is_sampled_again(tmp_path: Path) -> None:
    whole = run(CountingPolicy(), tmp_path)
    shard = next(tmp_path.glob("shard-000001-*.parquet"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(bytes(data))
    again = CountingPolicy()
    assert run(again, tmp_path).equals(whole)
    assert again.batches == [4]


def test_out_of_memory_halves_the_batch_and_writes_it_down(tmp_path: Path) -> None:
    policy = CountingPolicy(room=1)
    table = run(policy, tmp_path)
    assert table.num_rows == 30
    assert policy.batches == [4, 2] + [1] * 10
    assert batch_plan(tmp_path) == [2, 1]


def test_a_prompt_that_never_fits_is_told(tmp_path: Path) -> None:
    with pytest.raises(StepError, match=r"out of memory.*\n.*\b3 samples"):
        run(CountingPolicy(room=0), tmp_path)


def test_the_batch_size_is_a_number_in_the_configuration(tmp_path: Path) -> None:
    policy = CountingPolicy()
    run(policy, tmp_path, SamplingConfig(samples_per_prompt=3, shard_prompts=4, batch_prompts=3))
    assert policy.batches == [3, 1, 3, 1, 2]


def test_a_worker_of_other_numerics_makes_no_shard(tmp_path: Path) -> None:
    def job(**other: str) -> ShardJob:
        named = {**numerics(SAMPLING.dtype), **other}
        table = Artifact(tmp_path / "prompts.parquet", "never read")
        return ShardJob(table, Policy(tmp_path, "p"), TextPolicyConfig(model="m"), SAMPLING, 3, 1, tmp_path, named)

    check_numerics(job(), numerics(SAMPLING.dtype))
    with pytest.raises(StepError, match=r"execution\.shards: local") as error:
        shard.fn(job(torch="1.0", gpu="H100"), 0)
    assert (error.value.got, error.value.expected) == (
        f"gpu None, torch {numerics(SAMPLING.dtype)['torch']}",
        "gpu H100, torch 1.0",
    )
    assert not list(tmp_path.iterdir())
