"""Shards of sampling and scoring as Prefect tasks on a Ray cluster.

Each finished shard is durable (``tasks.loop.sample``) and has its own random streams, so results do not depend on which
worker makes it, how often one dies, or in which order they end. If a worker dies, Ray gives its shard to another. Flows
and tasks get references, never prompts or samples: a worker reads its part from the iteration's tables.
"""

from contextlib import ExitStack
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner

from flows.loop.session import may_pass
from raft_core.config.execution import ExecutionConfig
from raft_core.config.policy import PolicyConfig
from raft_core.errors import ConfigError
from raft_core.policies.base import OpenSampler, modality
from raft_core.types import Policy, Progress
from tasks.loop.sample import FanOut, ShardJob, check_numerics, make_shard, missing_shards, take_threads
from tasks.loop.score import ScoreFanOut, ScoreJob, make_score_shard, missing_score_shards


def fan_out(execution: ExecutionConfig) -> FanOut | None:
    """Makes the shards of sampling on Ray; None if this process does. Raises ConfigError if Ray is not installed."""
    if execution.shards == "local":
        return None
    runner = _ray(execution)

    def on_ray(job: ShardJob, progress: Progress) -> None:
        if missing_shards(job):
            shards.with_options(task_runner=runner)(job, progress)

    return on_ray


def score_fan_out(execution: ExecutionConfig) -> ScoreFanOut | None:
    """Makes the shards of scoring on Ray; None if this process does. Raises ConfigError if Ray is not installed."""
    if execution.shards == "local" or execution.scoring == "local":
        return None
    runner = _ray(execution)

    def on_ray(job: ScoreJob, progress: Progress) -> None:
        if missing_score_shards(job):
            score_shards.with_options(task_runner=runner)(job, progress)

    return on_ray


@flow(name="score shards", validate_parameters=False)
def score_shards(job: ScoreJob, progress: Progress) -> None:
    """Score every missing shard."""
    futures = [score_shard.submit(job, index) for index in missing_score_shards(job)]
    for future in futures:
        progress(future.result())


@task(
    name="score shard",
    task_run_name="score shard {index}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=1,
    retry_condition_fn=may_pass,
)
def score_shard(job: ScoreJob, index: int) -> int:
    """Score one shard on this worker; returns its number of rows."""
    return make_score_shard(job, index)


@flow(name="shards", validate_parameters=False)
def shards(job: ShardJob, progress: Progress) -> None:
    """Sample every missing shard."""
    futures = [shard.submit(job, index) for index in missing_shards(job)]
    for future in futures:
        progress(future.result())


@task(name="shard", task_run_name="shard {index}", cache_policy=NO_CACHE, retries=2, retry_delay_seconds=1)
def shard(job: ShardJob, index: int) -> int:
    """Sample one shard on this worker; returns its tokens. Raises StepError if the determinism fingerprint differs."""
    take_threads(job.numerics)
    check_numerics(job, modality(job.config.type).checkpoint.numerics(job.sampling.dtype))
    tokens = 0

    def count(done: int) -> None:
        nonlocal tokens
        tokens += done

    make_shard(job, _OPENED.get(job.policy, job.config, job.sampling.dtype), index, count)
    return tokens


class _Opened:
    """The policy that this worker keeps open, that of its current step; state, because opening is expensive."""

    def __init__(self) -> None:
        self.key: tuple[Policy, PolicyConfig, str] | None = None
        self.stack = ExitStack()

    def get(self, policy: Policy, config: PolicyConfig, dtype: str) -> OpenSampler:
        """The one that is open, or another one once that is closed: never two in memory."""
        if self.key != (policy, config, dtype):
            self.key, self.sampler = None, None
            self.stack.close()
            self.sampler = self.stack.enter_context(modality(config.type).sampler.open(policy, config, dtype=dtype))
            self.key = (policy, config, dtype)
        assert self.sampler is not None
        return self.sampler

    sampler: OpenSampler | None = None


_OPENED = _Opened()


def _ray(execution: ExecutionConfig) -> TaskRunner[PrefectFuture[Any]]:
    try:
        from prefect_ray import RayTaskRunner
        from ray.job_config import JobConfig
    except ImportError:
        raise ConfigError(
            "execution.shards is ray, but Ray is not installed", hint="pip install 'raft-mlops[ray]'"
        ) from None
    runner: TaskRunner[PrefectFuture[Any]]
    if execution.address:
        runner = RayTaskRunner(address=execution.address)
        return runner

    class OwnJob(JobConfig):
        """Pickled with the flow at each submission, without the protocol buffer that Ray stores in it."""

        def __getstate__(self) -> dict[str, Any]:
            return {**self.__dict__, "_cached_pb": None}

    own = {
        "include_dashboard": False,
        "num_cpus": execution.workers,
        "_node_ip_address": "127.0.0.1",
        # as if started by a client: otherwise workers look for modules in our current folder first
        "job_config": OwnJob(_client_job=True),
    }
    runner = RayTaskRunner(init_kwargs=own)
    return runner
