"""Score every sample with every reward; samples that cannot be scored are quarantined and counted.

On other machines a shard is a number of whole batches (``BATCH_SAMPLES`` rows) as one process would make them, so a
reward that compares the samples of its batch gives the same scores. A reward that remembers what it scored before does
not: for it set ``execution.scoring: local``.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raft_core.errors import RewardError
from raft_core.files.artifacts import file_digest, verify
from raft_core.imports import code_digest
from raft_core.records.pinned import check_pins
from raft_core.records.steps import StepKey, StepRecord, run_cached
from raft_core.records.tables import PROMPTS, SAMPLES, SCORED, read_table, to_prompts, write_table
from raft_core.rewards import score as scoring
from raft_core.rewards.base import RewardConfig
from raft_core.rewards.load import check_rewards, named
from raft_core.types import Artifact, Progress, Prompt
from tasks.loop.iteration import Iteration
from tasks.loop.sample import finished_shard, keep_shard, take_threads
from tasks.validation.check import read_quarantine
from tasks.validation.validate import apply_quarantine

MOST_SHARDS = 256


@dataclass(frozen=True, slots=True)
class ScoreJob:
    """The common settings of all shards of a scoring step; picklable.

    All workers see ``folder``, ``directory`` (the base of relative paths in rewards), ``samples`` (SCORING_COLUMNS of
    every row, quarantined ones marked) and ``prompts`` under the same path. ``identities``: name and identity of each
    reward in the step's key; a worker must load the same. ``num_open``: number of samples to score in the whole table.
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
"""Makes the missing shards, on any machine."""


def score(it: Iteration, progress: Progress, fan_out: ScoreFanOut | None = None) -> StepRecord:
    """Write ``scored``: one row per row of ``samples``, in the same order.

    ``fan_out`` makes the missing shards, possibly on other machines; without it this process scores all samples.
    The bytes are the same.

    Raises RewardError above ``scoring.max_failed_share``, ConfigError if a reward changed since the run started.
    """
    rewards = check_rewards(it.config.scoring.model_copy(update={"gold": ()}))
    check_pins(it.run, rewards.sources)
    key = StepKey(
        "score",
        inputs={
            "samples": file_digest(it.table("samples")),
            "quarantine": file_digest(it.table("quarantine")),
            "prompts": file_digest(it.table("prompts")),
            **{f"reward {name}": identity for name, identity in rewards.identities.items()},
        },
        settings=it.config.scoring.model_dump(mode="json", include={"rewards", "max_failed_share"}),
        code=code_digest("raft_core.rewards.score"),
        numerics=it.modality.checkpoint.numerics("float32"),
    )

    def compute() -> None:
        read = read_table(it.table("samples"), SAMPLES, scoring.SCORING_COLUMNS)
        samples = apply_quarantine(read, read_quarantine(it))
        most = it.config.scoring.max_failed_share
        if fan_out is None:
            prompts = {p.prompt_id: p for p in to_prompts(read_table(it.table("prompts"), PROMPTS))}
            table = scoring.score(samples, prompts, rewards.rewards, max_failed_share=most, progress=progress)
        else:
            folder = it.work / f"score-{key.digest[:16]}"
            job = ScoreJob(
                keep_samples(folder, samples),
                Artifact(it.table("prompts"), str(key.inputs["prompts"])),
                it.config.scoring.rewards,
                tuple(rewards.identities.items()),
                key.numerics,
                pc.sum(pc.equal(samples["status"], "ok")).as_py() or 0,
                most,
                folder,
                Path.cwd(),
            )
            table = score_in_shards(job, fan_out, progress)
        write_table(it.table("scored"), table, SCORED)

    return run_cached(it.runs, key, {"scored": it.table("scored")}, compute)


# -- shards, on other machines -----------------------------------------------------------------------


def keep_samples(folder: Path, samples: pa.Table) -> Artifact:
    """Write ``samples``, with quarantined rows marked, where the job's workers find them."""
    path = folder / "samples.parquet"
    write_table(path, samples, samples.schema)
    return Artifact(path, file_digest(path))


def missing_score_shards(job: ScoreJob) -> list[int]:
    """The indices of the shards that are not finished."""
    return [index for index in _shards(job) if finished_shard(job.folder, index, SCORED) is None]


def score_in_shards(job: ScoreJob, fan_out: ScoreFanOut, progress: Progress) -> pa.Table:
    """Score all shards with ``fan_out``; finished ones in ``job.folder`` are not made again.

    Raises RewardError as ``score`` does, and if a worker loads other rewards.
    """
    fan_out(job, progress)
    made = [finished_shard(job.folder, index, SCORED) for index in _shards(job)]
    if any(table is None for table in made):
        raise RewardError(
            "a scored shard is missing",
            got=f"no such shard in {job.folder}",
            expected="a folder that all workers share",
            hint="mount the workspace under the same path on every worker, or set execution.scoring: local",
        )
    scored = pa.concat_tables(made).combine_chunks() if made else pa.table([], schema=SCORED)
    scoring.check_failures(_asked(job.samples, job.prompts)[0], scored, job.max_failed_share)
    return scored


def make_score_shard(job: ScoreJob, index: int) -> int:
    """Score one shard and store it, unless it is finished already; returns its number of rows."""
    every, prompts = _asked(job.samples, job.prompts)
    size = _rows_of_shard(len(every))
    samples = every.slice(index * size, size)
    if finished_shard(job.folder, index, SCORED) is None:
        take_threads(job.numerics)
        with chdir(job.directory):
            table = scoring.score(
                samples,
                prompts,
                _loaded(job.rewards, job.identities),
                max_failed_share=job.max_failed_share,
                num_open=job.num_open,
            )
        keep_shard(job.folder, index, table, SCORED)
    return len(samples)


@lru_cache(maxsize=1)
def _loaded(
    configs: Sequence[RewardConfig], identities: tuple[tuple[str, str], ...]
) -> tuple[scoring.NamedReward, ...]:
    """Load the rewards once per process. Raises RewardError if they are not those in the step's key."""
    rewards = tuple(named(config) for config in configs)
    for reward, (name, identity) in zip(rewards, identities, strict=True):
        if reward.reward.identity != identity:
            raise RewardError(
                f"this worker loads another version of the reward '{name}'",
                got=reward.reward.identity,
                expected=identity,
                hint="give every worker the same files under the same path",
            )
    return rewards


@lru_cache(maxsize=1)
def _asked(samples: Artifact, prompts: Artifact) -> tuple[pa.Table, Mapping[str, Prompt]]:
    """The rows to score and their prompts, read once per process."""
    for table in (samples, prompts):
        verify(table)
    known = {prompt.prompt_id: prompt for prompt in to_prompts(read_table(prompts.path, PROMPTS))}
    return read_table(samples.path, SAMPLES, scoring.SCORING_COLUMNS), known


def _shards(job: ScoreJob) -> range:
    samples, _ = _asked(job.samples, job.prompts)
    return range(-(-len(samples) // _rows_of_shard(len(samples))))


def _rows_of_shard(num_samples: int) -> int:
    batches = -(-num_samples // scoring.BATCH_SAMPLES)
    return scoring.BATCH_SAMPLES * max(1, -(-batches // MOST_SHARDS))
