"""Each step of the loop as a Prefect task: a readable name, its cost, retries where a failure can pass."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

import tasks.check
import tasks.commit
import tasks.evaluate
import tasks.finetune
import tasks.register
import tasks.sample
import tasks.score
import tasks.select
import tasks.track
import tasks.version
from flows.session import Session
from raft_core.errors import GateStop, IntegrityError, RaftError, RewardError
from raft_core.gates import Decision
from raft_core.records.run import BASE, record_event
from raft_core.records.steps import StepRecord
from raft_core.types import Policy, Prompt
from tasks.check import Stage
from tasks.iteration import Iteration

FINAL = (ValueError, LookupError, TypeError, AssertionError, IntegrityError, RewardError, GateStop)
"""Failures that the same call would meet again: never retried."""

F = TypeVar("F", bound=Callable[..., Any])


async def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether another try can help."""
    return not isinstance(await state.aresult(raise_on_failure=False), FINAL)


def step(name: str) -> Callable[[F], F]:
    """A Prefect task called ``iteration 3 · name``, retried twice with back-off.

    Prefect's own cache is off: content addresses decide reuse (``raft_core.records.steps``).
    """
    return task(  # type: ignore[return-value]
        name=name, task_run_name=f"{{it.label}} · {name}", cache_policy=NO_CACHE, retries=2,
        retry_delay_seconds=exponential_backoff(backoff_factor=2), retry_jitter_factor=0.5, retry_condition_fn=may_pass,
    )  # fmt: skip


@step("sample")
def sample(it: Iteration, train: Sequence[Prompt], session: Session) -> StepRecord:
    """Draw the prompts and sample K completions of each."""
    sampling = it.config.sampling
    most = sampling.prompts_per_iteration * sampling.samples_per_prompt * sampling.max_new_tokens
    with session.step(it, "sample", total=most) as running:
        tasks.sample.draw_prompts(it, train)
        record = tasks.sample.sample(it, running.progress)
        running.reused = record.reused
    return record


@step("score")
def score(it: Iteration, session: Session) -> StepRecord:
    """Score every sample with every reward."""
    total = it.config.sampling.prompts_per_iteration * it.config.sampling.samples_per_prompt
    with session.step(it, "score", total=total, unit="samples") as running:
        record = tasks.score.score(it, running.progress)
        running.reused = record.reused
    return record


@step("validate")
def validate(it: Iteration, stage: Stage, held_out: Sequence[Prompt], session: Session) -> None:
    """Hold one table against its Great Expectations suite; stops the run or quarantines rows."""
    with session.step(it, "validate"):
        tasks.check.check(it, stage, held_out)


@step("select")
def select(it: Iteration, session: Session) -> None:
    """Keep the best."""
    with session.step(it, "select"):
        tasks.select.select(it)


@step("finetune")
def finetune(it: Iteration, session: Session) -> StepRecord:
    """Train the next policy in a child process."""
    with session.step(it, "finetune") as running:
        record = tasks.finetune.finetune(it)
        running.reused = record.reused
        running.done = tasks.finetune.read_result(it).num_tokens
    return record


@step("evaluate")
def evaluate(it: Iteration, policy: Policy, held_out: Sequence[Prompt], session: Session) -> StepRecord:
    """Sample and score the held-out prompts with the policy that the iteration made; write the scorecard."""
    with session.step(it, "evaluate", total=len(held_out) * it.config.sampling.max_new_tokens) as running:
        record = tasks.evaluate.evaluate(it, policy, held_out, running.progress, session.warn)
        tasks.evaluate.report(it)
        running.reused = record.reused
    return record


@step("commit")
def commit(it: Iteration, records: dict[str, StepRecord], session: Session) -> None:
    """Write ``commit.json``, last: the iteration now exists."""
    with session.step(it, "commit"):
        tasks.commit.commit(it, records)


@step("version")
def version(it: Iteration, session: Session) -> None:
    """Bring the committed iteration's tables and checkpoint into DVC."""
    with session.step(it, "version"):
        done = tasks.version.version(it.run, it.number, session.workspace, push=it.config.versioning.push)
    if done.warning:
        session.warn(done.warning, step="version", iteration=it.number)
    else:
        record_event(it.run, "projected", iteration=it.number, projection="version", pointers=dict(done.pointers))


@step("track")
def track(it: Iteration, session: Session) -> None:
    """Bring everything that is committed into MLflow."""
    with session.step(it, "track"):
        run_id = tasks.track.track(it.run, session.tracking_uri)
    record_event(it.run, "projected", iteration=it.number, projection="track", mlflow_run=run_id)


@task(name="finish", cache_policy=NO_CACHE)
def finish(session: Session, base: Policy, decision: Decision) -> None:
    """Register the best iteration as ``candidate``, write its plain checkpoint if asked for, and say how it ended."""
    run, best = session.run, decision.best
    if run.config.finetuning.merge and best != BASE:
        with session.step(Iteration(run, best, base, base), "merge"):
            tasks.finetune.merge(run, best, base)
    try:
        registered = tasks.register.register(run, best, session.tracking_uri)
    except (RaftError, OSError) as error:
        session.warn(f"the best iteration is not registered yet: {error}", step="register")
        return
    named = None if registered is None else asdict(registered)
    record_event(run, "finished", status=decision.kind, best=best, reason=decision.reason, registered=named)
