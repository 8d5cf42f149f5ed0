"""Each step of the loop as a Prefect task: a readable name, a log line, its cost, retries of temporary failures."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

import tasks.loop.commit
import tasks.loop.evaluate
import tasks.loop.finetune
import tasks.loop.sample
import tasks.loop.score
import tasks.loop.select
import tasks.loop.sync
import tasks.promotion.plain_folder
import tasks.validation.check
from flows.loop.fan_out import fan_out, score_fan_out
from flows.loop.session import Session, may_pass
from raft_core.gates import Decision
from raft_core.records.steps import StepRecord
from raft_core.types import Policy
from tasks.loop import summary
from tasks.loop.iteration import Iteration
from tasks.loop.prepare import Material
from tasks.validation.check import Stage

F = TypeVar("F", bound=Callable[..., Any])


def step(name: str, *, retries: int = 2) -> Callable[[F], F]:
    """A Prefect task called ``iteration 3 · name``, retried with back-off.

    Prefect's own cache is off: content addresses decide what is reused (``raft_core.records.steps``).
    """
    return task(  # type: ignore[return-value]
        name=name,
        task_run_name=f"{{it.label}} · {name}",
        cache_policy=NO_CACHE,
        retries=retries,
        retry_delay_seconds=exponential_backoff(backoff_factor=2),
        retry_jitter_factor=0.5,
        retry_condition_fn=may_pass,
    )


@step("sample")
def sample(it: Iteration, material: Material, session: Session) -> StepRecord:
    """Draw the prompts and sample K completions of each."""
    sampling = it.config.sampling
    most = sampling.prompts_per_iteration * sampling.samples_per_prompt * sampling.max_new_tokens
    with session.step(it, "sample", total=most) as running:
        tasks.loop.sample.draw_prompts(it, material.train)
        record = tasks.loop.sample.sample(it, running.progress, fan_out(it.config.execution))
        running.ended(summary.sampled(it), reused=record.reused)
    return record


@step("score")
def score(it: Iteration, session: Session) -> StepRecord:
    """Score every sample with every reward."""
    total = it.config.sampling.prompts_per_iteration * it.config.sampling.samples_per_prompt
    with session.step(it, "score", total=total, unit="samples") as running:
        record = tasks.loop.score.score(it, running.progress, score_fan_out(it.config.execution))
        running.ended(summary.scored(it), reused=record.reused)
    return record


@step("validate")
def validate(it: Iteration, stage: Stage, material: Material, session: Session) -> None:
    """Check one table with its Great Expectations suite: quarantine rows, or stop the run."""
    with session.step(it, "validate") as running:
        running.ended(summary.validated(tasks.validation.check.check(it, stage, material.held_out)))


@step("select")
def select(it: Iteration, session: Session) -> None:
    """Select the best samples."""
    with session.step(it, "select") as running:
        tasks.loop.select.select(it)
        running.ended(summary.selected(it))


@step("finetune")
def finetune(it: Iteration, session: Session) -> StepRecord:
    """Train the next policy in a child process."""
    with session.step(it, "finetune") as running:
        record = tasks.loop.finetune.finetune(it)
        running.ended(summary.finetuned(it), reused=record.reused)
        running.done = tasks.loop.finetune.read_result(it).num_tokens
        if it.number == 0 and (warning := tasks.loop.finetune.untouched(it)):
            session.warn(warning, iteration=it.number, step="finetune")
    return record


@step("evaluate")
def evaluate(it: Iteration, policy: Policy, material: Material, session: Session) -> StepRecord:
    """Sample and score the held-out prompts with the iteration's new policy; write the scorecard."""
    held_out = material.held_out
    with session.step(it, "evaluate", total=len(held_out) * it.config.sampling.max_new_tokens) as running:
        record = tasks.loop.evaluate.evaluate(it, policy, held_out, running.progress, session.warn)
        running.ended(summary.evaluated(tasks.loop.evaluate.report(it)), reused=record.reused)
    return record


@step("commit")
def commit(it: Iteration, records: dict[str, StepRecord], session: Session) -> None:
    """Write ``commit.json`` as the last file: from now on the iteration exists."""
    with session.step(it, "commit") as running:
        tasks.loop.commit.commit(it, records)
        running.ended(summary.committed(it))


# Not retried: a failed sync is repeated after the next commit, at the end, and by raft sync.


@step("version", retries=0)
def version(it: Iteration, waiting: Sequence[int], session: Session) -> str | None:
    """Add tables and checkpoints to DVC and push them; returns why the push failed."""
    with session.step(it, "version") as running:
        warning = tasks.loop.sync.to_dvc(it.run, waiting, session.workspace)
        running.ended(f"added {len(waiting)} iterations to DVC" + ("; the push failed" if warning else ""))
    return warning


@step("track", retries=0)
def track(it: Iteration, waiting: Sequence[int], session: Session) -> None:
    """Log everything that is committed to MLflow."""
    with session.step(it, "track") as running:
        tasks.loop.sync.to_mlflow(it.run, waiting, session.tracking_uri.get_secret_value())
        running.ended(f"logged {len(waiting)} iterations to MLflow")


@task(name="merge", cache_policy=NO_CACHE)
def merge(it: Iteration, session: Session) -> None:
    """Write the policy as a plain checkpoint too."""
    with session.step(it, "merge") as running:
        tasks.promotion.plain_folder.merge(it.run, it.number, it.base)
        running.ended(f"wrote {it.label} as a plain checkpoint")


@task(name="finish", cache_policy=NO_CACHE)
def finish(decision: Decision, session: Session) -> None:
    """Register the best iteration as ``candidate``, and record how the run ended."""
    tasks.loop.sync.close(session.run, decision, session.tracking_uri.get_secret_value())
