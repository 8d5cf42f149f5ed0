"""Read from the records whether a run continues, is finished, or waits for DVC or MLflow. Writes nothing."""

from collections.abc import Mapping
from typing import Any

from raft_core.errors import IntegrityError
from raft_core.gates import Decision
from raft_core.policies.base import modality
from raft_core.records.best import decision_of, read_scorecard
from raft_core.records.run import BASE, Run, read_chain, read_commit, read_events


def read_report(run: Run, iteration: int) -> dict[str, Any]:
    """The scorecard of a committed iteration. Raises IntegrityError if the file is not the committed one."""
    commit = read_commit(run, iteration)
    if commit is None:
        raise IntegrityError(f"run {run.name} has no commit of {label(iteration)}", hint="restore it from git")
    return read_scorecard(run, commit)


def decide(run: Run) -> Decision | None:
    """The gates' decision after the last commit; None before the base is committed."""
    return decision_of(run)


def pending(run: Run) -> dict[str, list[int]]:
    """``version`` (DVC) and ``track`` (MLflow) → the committed iterations that are not there yet; empty if none."""
    done = {(event["iteration"], event["projection"]) for event in read_events(run, "projected")}
    wanted = ("version", "track") if run.config.versioning.enabled else ("track",)
    committed = [commit.iteration for commit in read_chain(run)]
    missing = {name: [number for number in committed if (number, name) not in done] for name in wanted}
    return {name: numbers for name, numbers in missing.items() if numbers}


def is_finished(run: Run) -> bool:
    """Whether a run that the gates ended has nothing left to register, version or track."""
    return bool(read_events(run, "finished")) and not pending(run)


def ended_at(run: Run) -> str:
    """When an ended run finished its last evaluation, as a sortable ISO time; "" if unknown."""
    return max((str(e["time"]) for e in read_events(run, "step") if e["step"] == "evaluate"), default="")


def own_threads(run: Run) -> int | None:
    """The run's number of threads, as recorded in its last commit, or before the first commit at its start."""
    chain = read_chain(run)
    recorded = [commit.content.get("numerics") for commit in chain[-1:]] or read_events(run, "numerics")[:1]
    threads = recorded[0].get("threads") if recorded and isinstance(recorded[0], Mapping) else None
    return threads if isinstance(threads, int) and threads > 0 else None


def other_numerics(run: Run) -> str | None:
    """How this machine's determinism fingerprint differs from that of the last commit; None if it does not."""
    chain = read_chain(run)
    made = chain[-1].content.get("numerics") if chain else None
    if not made:
        return None
    here = modality(run.config.policy.type).checkpoint.numerics(run.config.sampling.dtype)
    differing = [key for key in sorted(made.keys() | here.keys()) if made.get(key) != here.get(key)]
    return ", ".join(f"{key} was {made.get(key)}, is {here.get(key)}" for key in differing) or None


def label(iteration: int) -> str:
    """An iteration in messages: "base", "iteration 3"."""
    return "base" if iteration == BASE else f"iteration {iteration}"
