"""The loop of Algorithm 1, made durable: what is finished is never done again."""

import os
import platform
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows import steps
from flows.progress import Reporter
from flows.session import Session
from raft_core import launch
from raft_core.config import RaftConfig
from raft_core.gates import Decision
from raft_core.records.run import BASE, hold, open_run, read_chain, record_event, verify_outputs
from tasks.decide import decide, is_finished
from tasks.iteration import Iteration
from tasks.prepare import Material, prepare


@dataclass(frozen=True, slots=True)
class AlignResult:
    """How a run ended. ``status``: completed (all iterations), converged, or stopped (by a gate)."""

    status: str
    best: int
    run: Path
    reason: str
    nothing_to_do: bool = False


def align_run(
    config: RaftConfig, *, name: str, workspace: Path, tracking_uri: str, reporter: Reporter | None = None
) -> AlignResult:
    """Start a run, or go on with it at the first step that is not finished.

    Holds the run's lease throughout. Raises a RaftError; everything finished stays.
    """
    run = open_run(workspace / "runs", name, config)
    with hold(run):
        for commit in read_chain(run):
            verify_outputs(run, commit)
        if (decision := decide(run)) and not decision.go_on and is_finished(run):
            return AlignResult(decision.kind, decision.best, run.path, decision.reason, nothing_to_do=True)
        launch.start()
        session = Session(run, workspace, tracking_uri, reporter or Reporter())
        record_event(run, "started", **_surroundings())
        decision = align.with_options(flow_run_name=name)(session, prepare(run))
    return AlignResult(decision.kind, decision.best, run.path, decision.reason)


@flow(name="align", validate_parameters=False)
def align(session: Session, material: Material) -> Decision:
    """Sample, score, validate, select, fine-tune, evaluate, commit, project; until a gate says stop."""
    run, train, held_out = session.run, material.train, material.held_out
    base = Iteration(run, BASE, material.base, material.base)
    if (decision := decide(run)) is None:
        records = {"evaluate": steps.evaluate(base, held_out, session)}
        steps.commit(base, records, session)
        decision = decide_and_tell(session)
    while decision.go_on:
        it = material.next_iteration()
        records = {"sample": steps.sample(it, train, session)}
        steps.validate(it, "samples", held_out, session)
        records["score"] = steps.score(it, session)
        steps.validate(it, "scored", held_out, session)
        steps.select(it, session)
        steps.validate(it, "selected", held_out, session)
        records["finetune"] = steps.finetune(it, session)
        records["evaluate"] = steps.evaluate(it, held_out, session)
        steps.commit(it, records, session)
        decision = decide_and_tell(session)
    steps.finish(session, decision)
    return decision
