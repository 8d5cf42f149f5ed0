"""Scoring on other machines: shards of whole batches, each durable once it is done.

A shard is a number of the batches that one process would make (``BATCH_SAMPLES`` rows from the first), so a reward
sees the very same lists, and one that compares the samples of its batch gives the same scores. A reward that remembers
what it scored before does not: ``execution.scoring: local`` is for it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from raft_core.errors import RewardError
from raft_core.files.artifacts import file_digest, verify
from raft_core.records.tables import PROMPTS, SAMPLES, SCORED, read_table, to_prompts, write_table
from raft_core.rewards.base import RewardConfig
from raft_core.rewards.load import named
from raft_core.rewards.score import BATCH_SAMPLES, SCORING_COLUMNS, NamedReward, check_failures, score
from raft_core.types import Artifact, Progress, Prompt
from tasks.loop.shards import finished_shard, keep_shard, take_threads

MOST_SHARDS = 256


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """What the shards of one scoring share; picklable. ``folder``, and ``directory``, from which the paths of rewards
    begin, are seen by all workers under the same path.

    ``identities``: name and identity of each reward, as the step's key has them: a worker must load the same.
    ``samples`` (SCORING_COLUMNS of every row, quarantined ones marked) and ``prompts`` are tables that they see too.
    ``num_open``: samples of the whole table that are to be scored.
    """

    samples: Artifact
    prompts: Artifact
    rewards: tuple[RewardConfig, ...]
    identities: tuple[tuple[str, str], ...]
    numerics: Mapping[str, Any]
    num_open: int
    max_failed_share: float
    folder: Path
    directory: Path


ScoreFanOut = Callable[[ScoreJob, Progress], None]
"""Makes the shards that are missing wherever it likes."""


def keep_samples(folder: Path, samples: pa.Table) -> Artifact:
    """Write what a job scores where its workers find it: ``samples`` in the state that the quarantine left them in."""
    path = folder / "samples.parquet"
    write_table(path, samples, samples.schema)
    return Artifact(path, file_digest(path))


def missing_score_shards(job: ScoreJob) -> list[int]:
    """The index of every shard that is not finished yet."""
    return [index for index in _shards(job) if finished_shard(job.folder, index, SCORED) is None]


def score_in_shards(job: ScoreJob, fan_out: ScoreFanOut, progress: Progress) -> pa.Table:
    """``score``, the shards made by ``fan_out``; those that ``job.folder`` has are not made again.

    Raises RewardError as ``score`` does, and if a worker has other rewards.
    """
    fan_out(job, progress)
    made = [finished_shard(job.folder, index, SCORED) for index in _shards(job)]
    if any(table is None for table in made):
        raise RewardError(
            "a shard that was scored is not there", got=job.folder, expected="a folder that workers share"
        )
    scored = pa.concat_tables(made).combine_chunks() if made else pa.table([], schema=SCORED)
    check_failures(_asked(job.samples, job.prompts)[0], scored, job.max_failed_share)
    return scored


def make_score_shard(job: ScoreJob, index: int) -> int:
    """Score one shard and keep it, unless somebody did so already; returns its rows."""
    every, prompts = _asked(job.samples, job.prompts)
    size = _rows_of_shard(len(every))
    samples = every.slice(index * size, size)
    if finished_shard(job.folder, index, SCORED) is None:
        take_threads(job.numerics)
        with chdir(job.directory):
            table = score(
                samples,
                prompts,
                _loaded(job.rewards, job.identities),
                max_failed_share=job.max_failed_share,
                num_open=job.num_open,
            )
        keep_shard(job.folder, index, table, SCORED)
    return len(samples)


@lru_cache(maxsize=1)
def _loaded(configs: Sequence[RewardConfig], identities: tuple[tuple[str, str], ...]) -> tuple[NamedReward, ...]:
    """The rewards stay in memory from shard to shard. Raises RewardError where they are not those of the key."""
    rewards = tuple(named(config) for config in configs)
    for reward, (name, identity) in zip(rewards, identities, strict=True):
        if reward.reward.identity != identity:
            raise RewardError(
                f"reward '{name}' is another one on this worker",
                got=reward.reward.identity,
                expected=identity,
                hint="let every worker see the same files, under the same path",
            )
    return rewards


@lru_cache(maxsize=1)
def _asked(samples: Artifact, prompts: Artifact) -> tuple[pa.Table, Mapping[str, Prompt]]:
    """The rows to score and their prompts, read once for all shards that a process makes of them."""
    for table in (samples, prompts):
        verify(table)
    known = {prompt.prompt_id: prompt for prompt in to_prompts(read_table(prompts.path, PROMPTS))}
    return read_table(samples.path, SAMPLES, SCORING_COLUMNS), known


def _shards(job: ScoreJob) -> range:
    samples, _ = _asked(job.samples, job.prompts)
    return range(-(-len(samples) // _rows_of_shard(len(samples))))


def _rows_of_shard(num_samples: int) -> int:
    batches = -(-num_samples // BATCH_SAMPLES)
    return BATCH_SAMPLES * max(1, -(-batches // MOST_SHARDS))
