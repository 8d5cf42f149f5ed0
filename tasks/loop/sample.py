"""Collect (Algorithm 1, step 1): draw b prompts and sample K completions of each from the current policy.

Sampling survives a kill: it is cut into shards of fixed composition, and each finished shard is durable.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from raft_core.config.policy import PolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.errors import StepError
from raft_core.files.artifacts import file_digest, verify, write_json
from raft_core.policies.base import OpenSampler
from raft_core.prompts.splits import draw
from raft_core.records.steps import StepKey, StepRecord, run_cached
from raft_core.records.tables import PROMPTS, SAMPLES, read_table, to_prompts, to_table, write_table, write_tables
from raft_core.types import Artifact, Policy, Progress, Prompt
from tasks.loop.iteration import Iteration, derived_seed

Open = Callable[[], AbstractContextManager[OpenSampler]]


@dataclass(frozen=True, slots=True)
class ShardJob:
    """The common settings of a step's shards; picklable, so that a shard can be made on another machine.

    All machines see ``prompts`` (the iteration's table) and ``folder`` under the same path. ``numerics``: the
    determinism fingerprint in the step's key.
    """

    prompts: Artifact
    policy: Policy
    config: PolicyConfig
    sampling: SamplingConfig
    samples_per_prompt: int
    seed: int
    folder: Path
    numerics: Mapping[str, Any]


FanOut = Callable[[ShardJob, Progress], None]
"""Makes the missing shards, on any machine."""


def draw_prompts(it: Iteration, train: Sequence[Prompt]) -> None:
    """Write this iteration's prompts."""
    drawn = draw(train, it.config.sampling.prompts_per_iteration, seed=it.config.seed, iteration=it.number)
    write_table(it.table("prompts"), to_table(PROMPTS, drawn), PROMPTS)


def sample(it: Iteration, progress: Progress, fan_out: FanOut | None = None) -> StepRecord:
    """Write ``samples``: K rows per prompt, ordered by prompt, then k.

    ``fan_out`` makes the missing shards, possibly on other machines; without it this process makes them one by one.
    The bytes are the same.
    """
    sampling, policy = it.config.sampling, it.config.policy
    key = StepKey(
        "sample",
        inputs={"policy": it.policy.identity, "prompts": file_digest(it.table("prompts"))},
        settings={"sampling": sampling.model_dump(mode="json"), "policy": policy.model_dump(mode="json")},
        code=it.sampling_code,
        numerics=it.modality.checkpoint.numerics(sampling.dtype),
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
            lambda: it.modality.sampler.open(it.policy, policy, dtype=sampling.dtype),
            prompts,
            sampling,
            samples_per_prompt=sampling.samples_per_prompt,
            seed=key.seed,
            folder=folder,
            progress=progress,
        )
        write_tables(it.table("samples"), shards, SAMPLES)

    return run_cached(it.runs, key, {"samples": it.table("samples")}, compute)


# -- shards ---------------------------------------------------------------------------------------


def missing_shards(job: ShardJob) -> list[int]:
    """The indices of the shards that are not finished."""
    num_shards = -(-len(_prompts_of(job.prompts)) // _prompts_of_shard(job.sampling, job.samples_per_prompt))
    return [index for index in range(num_shards) if finished_shard(job.folder, index, SAMPLES) is None]


def prompts_of_shard(job: ShardJob, index: int) -> Sequence[Prompt]:
    """The prompts of one shard, read on the machine that makes it. Raises IntegrityError if its table differs."""
    size = _prompts_of_shard(job.sampling, job.samples_per_prompt)
    return _prompts_of(job.prompts)[index * size : (index + 1) * size]


@lru_cache(maxsize=1)
def _prompts_of(table: Artifact) -> Sequence[Prompt]:
    """Read once per process, for all its shards."""
    verify(table)
    return tuple(to_prompts(read_table(table.path, PROMPTS)))


def take_threads(numerics: Mapping[str, Any]) -> None:
    """Use the number of threads in ``numerics``: it decides the last bits of results, and Ray gives its workers one."""
    if threads := numerics.get("threads"):
        import torch

        torch.set_num_threads(threads)


@contextmanager
def own_threads_of(threads: int | None) -> Iterator[int]:
    """Use this number of threads inside the block (None: no change); yields the number before."""
    import torch

    before = torch.get_num_threads()
    take_threads({"threads": threads})
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def check_numerics(job: ShardJob, here: Mapping[str, Any]) -> None:
    """Raise StepError if ``here``, this machine's determinism fingerprint, is not that of the job."""
    other = sorted(key for key in here.keys() | job.numerics.keys() if here.get(key) != job.numerics.get(key))
    if other:
        got, expected = (", ".join(f"{key} {of.get(key)}" for key in other) for of in (here, job.numerics))
        raise StepError(
            "this worker would sample different bytes: its determinism fingerprint is not that of the run",
            got=got,
            expected=expected,
            hint="use workers with the same hardware and libraries, or set execution.shards: local",
        )


def make_shard(job: ShardJob, model: OpenSampler, index: int, progress: Progress) -> None:
    """Sample one shard and store it durably, unless it is finished already."""
    if finished_shard(job.folder, index, SAMPLES) is None:
        prompts = prompts_of_shard(job, index)
        table = _sample_shard(model, prompts, job.sampling, job.samples_per_prompt, job.seed, job.folder, progress)
        keep_shard(job.folder, index, table, SAMPLES)


def sample_shards(
    open_policy: Open,
    prompts: Sequence[Prompt],
    sampling: SamplingConfig,
    *,
    samples_per_prompt: int,
    seed: int,
    folder: Path,
    progress: Progress,
) -> Iterator[pa.Table]:
    """Yield one SAMPLES table per shard, in order; a shard found in ``folder`` is not sampled again.

    A shard's file name contains the digest of its bytes, so damaged shards are detected and sampled again.
    The policy is loaded only if a shard is missing. When memory runs out, the number of prompts decoded together is
    halved and recorded in ``batch.json``, down to one prompt; then StepError is raised.
    """
    model: OpenSampler | None = None
    with ExitStack() as stack:
        for index, shard in enumerate(_batched(prompts, _prompts_of_shard(sampling, samples_per_prompt))):
            table = finished_shard(folder, index, SAMPLES)
            if table is None:
                model = model or stack.enter_context(open_policy())
                table = _sample_shard(model, shard, sampling, samples_per_prompt, seed, folder, progress)
                keep_shard(folder, index, table, SAMPLES)
            yield table


def batch_plan(folder: Path) -> list[int]:
    """Number of prompts decoded together after each time that memory ran out; empty if it never did."""
    path = folder / "batch.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def _sample_shard(
    model: OpenSampler,
    shard: Sequence[Prompt],
    sampling: SamplingConfig,
    samples_per_prompt: int,
    seed: int,
    folder: Path,
    progress: Progress,
) -> pa.Table:
    while True:
        plan = batch_plan(folder)
        size = plan[-1] if plan else len(shard) if sampling.batch_prompts == "auto" else sampling.batch_prompts
        try:
            samples = [
                sample
                for prompts in _batched(shard, size)
                for sample in model.sample(
                    prompts, sampling, samples_per_prompt=samples_per_prompt, seed=seed, progress=progress
                )
            ]
            return to_table(SAMPLES, samples)
        except MemoryError as error:
            if min(size, len(shard)) == 1:
                raise StepError(
                    "out of memory while sampling one prompt",
                    got=f"{samples_per_prompt} samples per prompt, decoded together",
                    hint="lower sampling.samples_per_prompt or sampling.max_new_tokens, or use a machine with more "
                    "memory",
                ) from error
            write_json(folder / "batch.json", [*plan, min(size, len(shard)) // 2])


def _prompts_of_shard(sampling: SamplingConfig, samples_per_prompt: int) -> int:
    return max(1, sampling.shard_prompts * sampling.samples_per_prompt // samples_per_prompt)


def _batched(prompts: Sequence[Prompt], size: int) -> Iterator[Sequence[Prompt]]:
    return (prompts[start : start + size] for start in range(0, len(prompts), size))


def finished_shard(folder: Path, index: int, schema: pa.Schema) -> pa.Table | None:
    """A finished shard; None if it is missing. A damaged file is deleted."""
    for path in folder.glob(f"shard-{index:06d}-*.parquet"):
        if file_digest(path) == path.stem.rsplit("-", 1)[1]:
            return read_table(path, schema)
        path.unlink()
    return None


def keep_shard(folder: Path, index: int, table: pa.Table, schema: pa.Schema) -> None:
    """Store a shard durably, with the digest of its bytes in the file name."""
    unnamed = folder / f"unnamed-{index:06d}.parquet"
    write_table(unnamed, table, schema)
    unnamed.rename(folder / f"shard-{index:06d}-{file_digest(unnamed)}.parquet")
