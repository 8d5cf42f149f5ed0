"""The loop of Algorithm 1, made durable: finished steps are never repeated."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from prefect import flow
from pydantic import SecretStr

from flows.loop import steps
from flows.loop.session import Session
from flows.loop.source_tree import git
from flows.orchestration import pages
from flows.process.progress import Reporter
from raft_core.config.run import RaftConfig
from raft_core.errors import RaftError
from raft_core.gates import Decision
from raft_core.launch import processes
from raft_core.policies.base import modality
from raft_core.records.run import BASE, Run, hold, open_run, read_chain, record_event, verify_outputs
from raft_core.redaction import redacted_text
from raft_core.rewards.load import check_rewards
from tasks.loop.decide import decide, is_finished, other_numerics, own_threads, pending
from tasks.loop.finetune import next_policy
from tasks.loop.iteration import Iteration
from tasks.loop.prepare import Material, prepare, settle_rewards
from tasks.loop.sample import own_threads_of
from tasks.loop.template_date import dated, refuse_undated


@dataclass(frozen=True, slots=True)
class AlignResult:
    """How a run ended. ``status``: completed (all iterations), converged, or stopped (by a gate)."""

    status: str
    best: int
    run: Path
    reason: str
    nothing_to_do: bool = False


def align_run(
    config: RaftConfig,
    *,
    name: str,
    workspace: Path,
    tracking_uri: str,
    reporter: Reporter | None = None,
    accept_reward_change: bool = False,
) -> AlignResult:
    """Start a run, or resume it at the first unfinished step.

    ``accept_reward_change``: continue with rewards that changed since the run started; the change is recorded.
    Holds the run's lease throughout. Raises a RaftError; everything that is finished stays.
    """
    begins = not (workspace / "runs" / name / "config.yaml").exists()
    config = dated(config, workspace / "runs" / name, datetime.now(UTC).date().isoformat())
    run = open_run(workspace / "runs", name, config)
    session = Session(run, workspace, SecretStr(tracking_uri), reporter or Reporter())
    with hold(run), _end_recorded(session):
        for commit in read_chain(run):
            verify_outputs(run, commit)
            shutil.rmtree(run.folder(commit.iteration) / "work", ignore_errors=True)
        if (decision := decide(run)) and not decision.go_on and is_finished(run):
            if accept_reward_change:
                for warning in settle_rewards(run, check_rewards(config.scoring), accept=True):
                    session.warn(warning)
            pages.tell_end(session, decision)
            return AlignResult(decision.kind, decision.best, run.path, decision.reason, nothing_to_do=True)
        record_event(run, "started", **_surroundings())
        refuse_undated(run)
        material = _prepare(run, begins=begins, accept_reward_change=accept_reward_change)
        for warning in material.warnings:
            session.warn(warning)
        with _in_its_numerics(session):
            if preload := modality(config.policy.type).trainer.PRELOAD:
                processes.start(preload)
            try:
                flow_run = align.with_options(flow_run_name=name)
                decision = pages.seen_through(session, lambda: flow_run(session, material))
            finally:
                processes.stop()
    return AlignResult(decision.kind, decision.best, run.path, decision.reason)


@flow(name="align", validate_parameters=False)
def align(session: Session, material: Material) -> Decision:
    """Sample, score, validate, select, fine-tune, evaluate, commit and sync, until a gate ends the run."""
    run = session.run
    pages.heal(session)
    if (decision := decide(run)) is None:
        base = Iteration(run, BASE, material.base, material.base)
        records = {"evaluate": steps.evaluate(base, material.base, material, session)}
        steps.commit(base, records, session)
        decision = conclude(session, material)
    while decision.go_on:
        it = material.next_iteration()
        records = {"sample": steps.sample(it, material, session)}
        steps.validate(it, "samples", material, session)
        records["score"] = steps.score(it, session)
        steps.validate(it, "scored", material, session)
        steps.select(it, session)
        steps.validate(it, "selected", material, session)
        records["finetune"] = steps.finetune(it, session)
        policy = next_policy(it, records["finetune"].outputs["policy"])
        records["evaluate"] = steps.evaluate(it, policy, material, session)
        steps.commit(it, records, session)
        decision = conclude(session, material)
    finish(session, material, decision)
    return decision


def conclude(session: Session, material: Material) -> Decision:
    """After a commit: sync it to DVC and MLflow, evaluate the gates, report the decision."""
    sync(session, material)
    decision = decide(session.run)
    assert decision is not None
    last = read_chain(session.run)[-1].iteration
    record_event(session.run, "decision", iteration=last, go_on=decision.go_on, reason=decision.reason)
    session.reporter.say(decision.reason)
    pages.publish(session, decision)
    return decision


def sync(session: Session, material: Material) -> None:
    """Bring DVC and MLflow up to date with every commit.

    The run directory is the truth: an outage is only a warning, and the next sync makes up for it.
    """
    waiting = pending(session.run)
    for who, step, name in (("DVC", steps.version, "version"), ("MLflow", steps.track, "track")):
        if name not in waiting:
            continue
        it = Iteration(session.run, waiting[name][-1], material.base, material.base)
        try:
            warning = step(it, waiting[name], session)
        except (RaftError, OSError) as error:
            warning = str(error)
        if warning:
            session.outage(who, f"{it.label} · {name}: {warning}", iteration=it.number, step=name)
        else:
            session.answered(who)


def finish(session: Session, material: Material, decision: Decision) -> None:
    """Sync what is left, write the plain checkpoint if configured, register the best iteration."""
    run, best = session.run, decision.best
    sync(session, material)
    if run.config.finetuning.merge and best != BASE:
        steps.merge(Iteration(run, best, material.base, material.base), session)
    if "MLflow" in session.away:
        return
    try:
        steps.finish(decision, session)
    except (RaftError, OSError) as error:
        session.outage("MLflow", f"could not register the best iteration: {error}", step="register")
        return
    with suppress(RaftError, OSError):  # the link is a convenience
        from tasks.tracking.runs import run_link

        if link := run_link(run, session.tracking_uri.get_secret_value()):
            session.reporter.say(f"MLflow: {link}")


def _prepare(run: Run, *, begins: bool, accept_reward_change: bool) -> Material:
    """Check everything. If a new run fails here, its name stays free for a corrected configuration."""
    try:
        return prepare(run, accept_reward_change=accept_reward_change)
    except RaftError:
        if begins:
            (run.path / "config.yaml").unlink()
        raise


@contextmanager
def _in_its_numerics(session: Session) -> Iterator[None]:
    """Use the run's own number of threads, so that finished steps are reused; warn about other differences."""
    run, threads = session.run, own_threads(session.run)
    with own_threads_of(threads) as before:
        if threads is not None and threads != before:
            session.reporter.say(
                f"run {run.name} uses {threads} threads, as before, instead of {before}: the number of threads decides "
                "the last bits of results, and this way finished steps are reused"
            )
        if differing := other_numerics(run):
            session.warn(
                f"run {run.name} resumes with another determinism fingerprint ({differing}): committed iterations "
                "stay, steps of the uncommitted iteration run again, and results can differ in their last bits from "
                "those of an uninterrupted run"
            )
        record_event(run, "numerics", **modality(run.config.policy.type).checkpoint.numerics(run.config.sampling.dtype))
        yield


@contextmanager
def _end_recorded(session: Session) -> Iterator[None]:
    """Record an error or interrupt that ends the block, for ``raft runs`` and MLflow. A kill is not recorded."""
    run = session.run
    try:
        yield
    except BaseException as error:
        with suppress(OSError, RaftError):  # a full disk may be the cause
            message = redacted_text(str(error)) or type(error).__name__
            message = message.replace(f"{run.path.parent.parent}/", "")  # the workspace may move
            record_event(run, "failed", error=type(error).__name__, message=message)
        if isinstance(error, Exception) and "MLflow" not in session.away:  # do not let an interrupt wait
            from tasks.tracking.runs import track

            with suppress(OSError, RaftError, ValueError, LookupError, TypeError):  # report the first error
                track(run, session.tracking_uri.get_secret_value())
        raise


def _surroundings() -> dict[str, object]:
    """Host, process and git commit: recorded as an event, never part of hashed bytes."""
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "git_commit": commit or None,
        "git_changes": bool(changes),
    }
