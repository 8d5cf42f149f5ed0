"""Bring DVC and MLflow up to date with a run directory, and record what they have.

Each function is idempotent and can be called again after any failure.
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
    """Add tables and checkpoints of committed iterations to DVC and push them.

    Returns why the push failed, None if it worked. Raises StepError if DVC cannot add the files.
    """
    done = version_all(run, iterations, workspace, push=run.config.versioning.push, look=look)
    for iteration, versioned in done.items():
        if versioned.warning is not None:
            return versioned.warning
        record_event(run, "projected", iteration=iteration, projection="version", pointers=dict(versioned.pointers))
    return None


def to_mlflow(run: Run, iterations: Sequence[int], uri: str, *, look: bool = False) -> None:
    """Log everything that is committed to MLflow, and record that it has ``iterations``.

    Raises StepError if MLflow cannot be reached or rejects the records.
    """
    run_id = track(run, uri, look=look)
    for iteration in iterations:
        record_event(run, "projected", iteration=iteration, projection="track", mlflow_run=run_id)


def close(run: Run, decision: Decision, uri: str) -> Registered | None:
    """Register the best iteration of an ended run as ``candidate``, and record how the run ended.

    Raises StepError if MLflow cannot be reached or rejects the records.
    """
    registered = register(run, decision.best, uri)
    named = None if registered is None else asdict(registered)
    record_event(run, "finished", status=decision.kind, best=decision.best, reason=decision.reason, registered=named)
    return registered
