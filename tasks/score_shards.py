"""Scoring on other machines: shards of whole batches, each durable once it is done.

A shard is a number of the batches that one process would make (``BATCH_SAMPLES`` rows from the first), so a reward
sees the very same lists, and one that compares the samples of its batch gives the same scores. A reward that remembers
what it scored before does not: ``execution.scoring: local`` is for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.config.scoring import RewardConfig
from raft_core.errors import RewardError
from raft_core.policies.base import Progress
from raft_core.records.tables import SCORED
from raft_core.rewards.score import BATCH_SAMPLES, NamedReward, check_failures, named, score
from raft_core.types import Prompt
from tasks.shards import finished_shard, keep_shard, take_threads

MOST_SHARDS = 256


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """What the shards of one scoring share; picklable. ``folder``, and ``directory``, from which the paths of rewards
    begin, are seen by all workers under the same path.

    ``identities``: name and identity of each reward, as the step's key has them: a worker must load the same.
    ``num_open``: samples of the whole table that are to be scored.
    """

    rewards: tuple[RewardConfig, ...]
    identities: tuple[tuple[str, str], ...]
    numerics: Mapping[str, Any]
    num_open: int
    max_failed_share: float
    folder: Path
    directory: Path


@dataclass(frozen=True, slots=True)
class ScoreShard:
    """Rows of the samples as an Arrow stream, and their prompts."""

    samples: bytes
    prompts: tuple[Prompt, ...]


ScoreFanOut = Callable[[ScoreJob, Mapping[int, ScoreShard], Progress], None]
"""Makes the shards that are missing wherever it likes."""


def score_in_shards(
    samples: pa.Table, prompts: Mapping[str, Prompt], job: ScoreJob, fan_out: ScoreFanOut, progress: Progress
) -> pa.Table:
    """``score``, the shards made by ``fan_out``; those that ``job.folder`` has are not made again.

    Raises RewardError as ``score`` does, and if a worker has other rewards.
    """
    parts = list(enumerate(_parts(samples)))
    missing = {i: _shard(part, prompts) for i, part in parts if finished_shard(job.folder, i, SCORED) is None}
    fan_out(job, missing, progress)
    made = [finished_shard(job.folder, index, SCORED) for index, _ in parts]
    if any(table is None for table in made):
        raise RewardError(
            "a shard that was scored is not there", got=job.folder, expected="a folder that workers share"
        )
    scored = pa.concat_tables(made).combine_chunks() if made else pa.table([], schema=SCORED)
    check_failures(samples, scored, job.max_failed_share)
    return scored


def make_score_shard(job: ScoreJob, index: int, shard: ScoreShard) -> int:
    """Score one shard and keep it, unless somebody did so already; returns its rows."""
    samples = pa.ipc.open_stream(shard.samples).read_all()
    if finished_shard(job.folder, index, SCORED) is None:
        take_threads(job.numerics)
        with chdir(job.directory):
            table = score(
                samples, {prompt.prompt_id: prompt for prompt in shard.prompts}, _loaded(job.rewards, job.identities),
                max_failed_share=job.max_failed_share, num_open=job.num_open,
            )  # fmt: skip
        keep_shard(job.folder, index, table, SCORED)
    return len(samples)


@lru_cache(maxsize=1)
def _loaded(configs: Sequence[RewardConfig], identities: tuple[tuple[str, str], ...]) -> tuple[NamedReward, ...]:
    """The rewards stay in memory from shard to shard. Raises RewardError where they are not those of the key."""
    rewards = tuple(named(config) for config in configs)
    for reward, (name, identity) in zip(rewards, identities, strict=True):
        if reward.reward.identity != identity:
            raise RewardError(
                f"reward '{name}' is another one on this worker", got=reward.reward.identity, expected=identity,
                do="let every worker see the same files, under the same path",
            )  # fmt: skip
    return rewards


def _parts(samples: pa.Table) -> Iterator[pa.Table]:
    batches = -(-len(samples) // BATCH_SAMPLES)
    size = BATCH_SAMPLES * max(1, -(-batches // MOST_SHARDS))
    return (samples.slice(start, size) for start in range(0, len(samples), size))


def _shard(part: pa.Table, prompts: Mapping[str, Prompt]) -> ScoreShard:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, part.schema) as stream:
        stream.write_table(part)
    wanted = pc.unique(part["prompt_id"]).to_pylist()
    return ScoreShard(sink.getvalue().to_pybytes(), tuple(prompts[i] for i in wanted if i in prompts))
