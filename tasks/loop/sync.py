"""Bring DVC and MLflow up to date with a run directory, and write down what they know now.

Each function is idempotent, and may be called again after any failure.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from raft_core.gates import Decision
from raft_core.records.run import Run, record_event
from tasks.tracking.registry import Registered, register
from tasks.tracking.runs import track
from tasks.versioning.pointers import version_all


def to_dvc(run: Run, iterations: Sequence[int], workspace: Path, *, look: bool = False) -> str | None:
    """Tables and checkpoints of committed iterations; returns why the remote has not got them all.

    Raises StepError if DVC cannot take the files.
    """
    done = version_all(run, iterations, workspace, push=run.config.versioning.push, look=look)
    for iteration, versioned in done.items():
        if versioned.warning is not None:
            return versioned.warning
        record_event(run, "projected", iteration=iteration, projection="version", pointers=dict(versioned.pointers))
    return None


def to_mlflow(run: Run, iterations: Sequence[int], uri: str, *, look: bool = False) -> None:
    """Everything that is committed; ``iterations``: what is written down as known now.

    Raises StepError if MLflow is away or refuses.
    """
    run_id = track(run, uri, look=look)
    for iteration in iterations:
        record_event(run, "projected", iteration=iteration, projection="track", mlflow_run=run_id)


def close(run: Run, decision: Decision, uri: str) -> Registered | None:
    """Register the best iteration of a run that is over as ``candidate``, and write down how it ended.

    Raises StepError if MLflow is away or refuses.
    """
    registered = register(run, decision.best, uri)
    named = None if registered is None else asdict(registered)
    record_event(run, "finished", status=decision.kind, best=decision.best, reason=decision.reason, registered=named)
    return registered
