"""Scoring in shards: the table of one process, batch for batch, whoever makes the shards and in which order."""

from pathlib import Path

import pyarrow as pa
import pytest

from raft_core.errors import RewardError
from raft_core.files.artifacts import file_digest
from raft_core.records.tables import PROMPTS as PROMPTS_SCHEMA
from raft_core.records.tables import SAMPLES, SCORED, to_table, write_table
from raft_core.rewards import score as scoring
from raft_core.rewards.function import FunctionRewardConfig
from raft_core.rewards.load import Rewards, named
from raft_core.types import Artifact, Progress, Prompt
from tasks.loop.score import ScoreJob, keep_samples, make_score_shard, missing_score_shards, score_in_shards

REWARD = """
def reward(prompts, completions):
    if any(len(text) == 5 for text in completions) and {failing}:
        raise ValueError("five letters")
    mean = sum(map(len, completions)) / len(completions)
    return [len(text) - mean for text in completions]
"""
"""A sample's score depends on the batch that it comes in."""

PROMPTS = {p.prompt_id: p for p in (Prompt.of(f"prompt {i}") for i in range(100))}


@pytest.fixture
def samples() -> pa.Table:
    rows = [
        {
            "sample_id": f"s{i:06d}",
            "prompt_id": prompt,
            "k": i % 9,
            "completion": "x" * (i * 7919 % 31 + 6),
            "source": "policy",
            "status": "quarantined" if i % 11 == 0 else "ok",
            "reason": "",
        }
        for i, prompt in enumerate(p for p in PROMPTS for _ in range(9))
    ]
    return pa.Table.from_pylist(rows, pa.schema([SAMPLES.field(name) for name in scoring.SCORING_COLUMNS]))


def job_of(
    folder: Path, samples: pa.Table, *, failing: bool = False, max_failed_share: float = 0.0
) -> tuple[ScoreJob, Rewards]:
    (folder / "mine.py").write_text(REWARD.format(failing=failing))
    config = FunctionRewardConfig(function=f"{folder / 'mine.py'}:reward")
    rewards = Rewards((named(config),), ())
    table = folder / "prompts.parquet"
    write_table(table, to_table(PROMPTS_SCHEMA, list(PROMPTS.values())), PROMPTS_SCHEMA)
    job = ScoreJob(
        keep_samples(folder / "work", samples),
        Artifact(table, file_digest(table)),
        (config,),
        tuple(rewards.identities.items()),
        {},
        818,
        max_failed_share,
        folder / "work",
        folder,
    )
    return job, rewards


def backwards(job: ScoreJob, progress: Progress) -> None:
    for index in sorted(missing_score_shards(job), reverse=True):
        progress(make_score_shard(job, index))


def test_the_bytes_of_one_process(samples: pa.Table, tmp_path: Path) -> None:
    job, rewards = job_of(tmp_path, samples)
    whole = scoring.score(samples, PROMPTS, rewards.rewards, max_failed_share=0.0)
    done: list[int] = []
    sharded = score_in_shards(job, backwards, done.append)
    assert done == [900 - 3 * 256, 256, 256, 256]
    assert sharded.equals(whole)
    for name, table in (("one", whole), ("many", sharded)):
        write_table(tmp_path / f"{name}.parquet", table, SCORED)
    assert file_digest(tmp_path / "one.parquet") == file_digest(tmp_path / "many.parquet")


def test_a_shard_that_is_there_is_not_scored_again(samples: pa.Table, tmp_path: Path) -> None:
    job, _ = job_of(tmp_path, samples)
    first = score_in_shards(job, backwards, lambda n: None)
    next((tmp_path / "work").glob("shard-000001-*")).unlink()
    asked: list[int] = []

    def only(job: ScoreJob, progress: Progress) -> None:
        asked.extend(missing_score_shards(job))
        backwards(job, progress)

    assert score_in_shards(job, only, lambda n: None).equals(first)
    assert asked == [1]


def test_failures_are_counted_over_all_shards(samples: pa.Table, tmp_path: Path) -> None:
    position = samples.column_names.index("completion")
    texts = [("y" * 5 if i in (5, 300, 600) else text) for i, text in enumerate(samples["completion"].to_pylist())]
    samples = samples.set_column(position, "completion", pa.array(texts))
    job, rewards = job_of(tmp_path, samples, failing=True, max_failed_share=0.01)
    whole = scoring.score(samples, PROMPTS, rewards.rewards, max_failed_share=0.01)
    assert score_in_shards(job, backwards, lambda n: None).equals(whole)
    strict, _ = job_of(tmp_path, samples, failing=True, max_failed_share=0.002)  # 1.6 samples; each shard has but one
    with pytest.raises(RewardError, match="too many samples cannot be scored: 3 of 818"):
        score_in_shards(strict, backwards, lambda n: None)


def test_a_worker_with_another_reward_is_refused(samples: pa.Table, tmp_path: Path) -> None:
    job, _ = job_of(tmp_path, samples)
    (tmp_path / "mine.py").write_text(REWARD.format(failing=False) + "# edited")
    with pytest.raises(RewardError, match="'function'") as refused:
        score_in_shards(job, backwards, lambda n: None)
    assert refused.value.expected == dict(job.identities)["function"]
    assert refused.value.got != refused.value.expected
