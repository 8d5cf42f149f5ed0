"""The loop of Algorithm 1, made durable: what is finished is never done again."""

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
from raft_core.policies.base import backend
from raft_core.records.run import BASE, Run, hold, open_run, read_chain, record_event, verify_outputs
from raft_core.redaction import redacted_text
from raft_core.rewards.load import check_rewards
from tasks.loop.decide import decide, is_finished, other_numerics, own_threads, pending
from tasks.loop.finetune import next_policy
from tasks.loop.iteration import Iteration
from tasks.loop.prepare import Material, prepare, settle_rewards
from tasks.loop.shards import own_threads_of
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
    """Start a run, or go on with it at the first step that is not finished.

    ``accept_reward_change``: go on with rewards that changed since it began; the records say so.
    Holds the run's lease throughout. Raises a RaftError; everything finished stays.
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
                for told in settle_rewards(run, check_rewards(config.scoring), accept=True):
                    session.warn(told)
            pages.tell_end(session, decision)
            return AlignResult(decision.kind, decision.best, run.path, decision.reason, nothing_to_do=True)
        record_event(run, "started", **_surroundings())
        refuse_undated(run)
        material = _prepare(run, begins=begins, accept_reward_change=accept_reward_change)
        for warning in material.warnings:
            session.warn(warning)
        with _in_its_numerics(session):
            processes.start()
            try:
                flow_run = align.with_options(flow_run_name=name)
                decision = pages.seen_through(session, lambda: flow_run(session, material))
            finally:
                processes.stop()
    return AlignResult(decision.kind, decision.best, run.path, decision.reason)


@flow(name="align", validate_parameters=False)
def align(session: Session, material: Material) -> Decision:
    """Sample, score, validate, select, fine-tune, evaluate, commit, project; until a gate says stop."""
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
    """After a commit: bring it into DVC and MLflow, ask the gates, tell."""
    project(session, material)
    decision = decide(session.run)
    assert decision is not None
    last = read_chain(session.run)[-1].iteration
    record_event(session.run, "decision", iteration=last, go_on=decision.go_on, reason=decision.reason)
    session.reporter.say(decision.reason)
    pages.publish(session, decision)
    return decision


def project(session: Session, material: Material) -> None:
    """Bring every commit that DVC or MLflow does not know yet there.

    The run directory is the truth: an outage costs a warning, and is filled in at the next chance.
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
    """Bring in what is left, write the plain checkpoint if asked for, register the best iteration."""
    run, best = session.run, decision.best
    project(session, material)
    if run.config.finetuning.merge and best != BASE:
        steps.merge(Iteration(run, best, material.base, material.base), session)
    if "MLflow" in session.away:
        return
    try:
        steps.finish(decision, session)
    except (RaftError, OSError) as error:
        session.outage("MLflow", f"the best iteration is not registered yet: {error}", step="register")


def _prepare(run: Run, *, begins: bool, accept_reward_change: bool) -> Material:
    """Check everything; a run that could not even begin leaves its name free for a mended configuration."""
    try:
        return prepare(run, accept_reward_change=accept_reward_change)
    except RaftError:
        if begins:
            (run.path / "config.yaml").unlink()
        raise


@contextmanager
def _in_its_numerics(session: Session) -> Iterator[None]:
    """Compute with as many threads as the run did before, so that what is finished is reused; say what differs yet."""
    run, threads = session.run, own_threads(session.run)
    with own_threads_of(threads) as before:
        if threads is not None and threads != before:
            session.reporter.say(
                f"run {run.name} computes with {threads} threads, as it did before, instead of {before}: their number "
                "decides the last bits, and what is finished is reused"
            )
        if differing := other_numerics(run):
            session.warn(
                f"run {run.name} resumes with another determinism fingerprint ({differing}): committed iterations "
                "stay; steps of an uncommitted iteration run again, and later results can differ in their "
                "last bits from an uninterrupted run"
            )
        record_event(run, "numerics", **backend(run.config.policy.type).numerics(run.config.sampling.dtype))
        yield


@contextmanager
def _end_recorded(session: Session) -> Iterator[None]:
    """Write down what ended the block before its time, for ``raft runs`` and MLflow. A kill leaves no word."""
    run = session.run
    try:
        yield
    except BaseException as error:
        with suppress(OSError, RaftError):  # a full disk may be what ended it
            told = redacted_text(str(error)) or type(error).__name__
            told = told.replace(f"{run.path.parent.parent}/", "")  # where the workspace lies today says nothing
            record_event(run, "failed", error=type(error).__name__, message=told)
        if isinstance(error, Exception) and "MLflow" not in session.away:  # whoever interrupts does not want to wait
            from tasks.tracking.runs import track

            with suppress(OSError, RaftError, ValueError, LookupError, TypeError):  # what ended the run is to be told
                track(run, session.tracking_uri.get_secret_value())
        raise


def _surroundings() -> dict[str, object]:
    """Who runs this, where, from which code: an event, never a part of hashed bytes."""
    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no", "--", "*.py")
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "git_commit": commit or None,
        "git_changes": bool(changes),
    }
