"""Collect (Algorithm 1, step 1): draw b prompts, K samples of each from the current policy."""

from collections.abc import Sequence

from raft_core.files.artifacts import file_digest
from raft_core.prompts.splits import draw
from raft_core.records.steps import StepKey, StepRecord, run_cached
from raft_core.records.tables import PROMPTS, SAMPLES, read_table, to_prompts, to_table, write_table, write_tables
from raft_core.types import Artifact, Progress, Prompt
from tasks.loop.iteration import Iteration, derived_seed
from tasks.loop.shards import FanOut, ShardJob, sample_shards


def draw_prompts(it: Iteration, train: Sequence[Prompt]) -> None:
    """Write this iteration's prompts."""
    drawn = draw(train, it.config.sampling.prompts_per_iteration, seed=it.config.seed, iteration=it.number)
    write_table(it.table("prompts"), to_table(PROMPTS, drawn), PROMPTS)


def sample(it: Iteration, progress: Progress, fan_out: FanOut | None = None) -> StepRecord:
    """Write ``samples``: K rows a prompt, ordered by prompt, then k.

    ``fan_out`` makes the missing shards, on other machines perhaps; without it they are made here, in turn.
    The bytes are the same.
    """
    sampling, policy = it.config.sampling, it.config.policy
    key = StepKey(
        "sample",
        inputs={"policy": it.policy.identity, "prompts": file_digest(it.table("prompts"))},
        settings={"sampling": sampling.model_dump(mode="json"), "policy": policy.model_dump(mode="json")},
        code=it.sampling_code,
        numerics=it.backend.numerics(sampling.dtype),
        seed=derived_seed(it.config.seed, "sample"),
    )

    def compute() -> None:
        prompts = to_prompts(read_table(it.table("prompts"), PROMPTS))
        folder = it.work / f"sample-{key.digest[:16]}"
        if fan_out is not None:
            table = Artifact(it.table("prompts"), str(key.inputs["prompts"]))
            job = ShardJob(
                table, it.policy, policy, sampling, sampling.samples_per_prompt, key.seed, folder, key.numerics
            )
            fan_out(job, progress)
        shards = sample_shards(
            lambda: it.backend.load(it.policy, policy, dtype=sampling.dtype),
            prompts,
            sampling,
            samples_per_prompt=sampling.samples_per_prompt,
            seed=key.seed,
            folder=folder,
            progress=progress,
        )
        write_tables(it.table("samples"), shards, SAMPLES)

    return run_cached(it.runs, key, {"samples": it.table("samples")}, compute)
