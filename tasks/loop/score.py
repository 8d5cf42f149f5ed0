"""Score every sample with every reward; a sample that cannot be scored is quarantined, counted."""

from pathlib import Path

import pyarrow.compute as pc

from raft_core.files.artifacts import file_digest
from raft_core.imports import code_digest
from raft_core.records.pinned import check_pins
from raft_core.records.steps import StepKey, StepRecord, run_cached
from raft_core.records.tables import PROMPTS, SAMPLES, SCORED, read_table, to_prompts, write_table
from raft_core.rewards import score as scoring
from raft_core.rewards.load import check_rewards
from raft_core.types import Artifact, Progress
from tasks.loop.iteration import Iteration
from tasks.loop.score_shards import ScoreFanOut, ScoreJob, keep_samples, score_in_shards
from tasks.validation.check import read_quarantine
from tasks.validation.validate import apply_quarantine


def score(it: Iteration, progress: Progress, fan_out: ScoreFanOut | None = None) -> StepRecord:
    """Write ``scored``: a row for every row of ``samples``, in the same order.

    ``fan_out`` makes the missing shards, on other machines perhaps; without it they are scored here, in turn.
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
        numerics=it.backend.numerics("float32"),
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
