"""What the records say about going on: pure reading, no clock."""

import json
from typing import Any

from raft_core import gates
from raft_core.gates import Decision
from raft_core.records.run import BASE, Run, read_chain, read_events


def read_report(run: Run, iteration: int) -> dict[str, Any]:
    """The scorecard of a committed iteration."""
    report: dict[str, Any] = json.loads((run.folder(iteration) / "report.json").read_bytes())
    return report


def decide(run: Run) -> Decision | None:
    """What the gates say after the last commit; None before the base is committed."""
    reports = [read_report(run, commit.iteration) for commit in read_chain(run)]
    if not reports:
        return None
    return gates.decide(reports[0], reports[1:], run.config.gates, run.config.iterations)


def pending(run: Run) -> list[tuple[int, str]]:
    """(iteration, projection) of every committed iteration that DVC or MLflow does not know yet."""
    done = {(event["iteration"], event["projection"]) for event in read_events(run, "projected")}
    wanted = ("version", "track") if run.config.versioning.enabled else ("track",)
    every = [(commit.iteration, name) for commit in read_chain(run) for name in wanted]
    return [item for item in every if item not in done]


def is_finished(run: Run) -> bool:
    """Whether a run whose gates said stop has nothing left to register, version or track."""
    return bool(read_events(run, "finished")) and not pending(run)


def label(iteration: int) -> str:
    """What people call an iteration."""
    return "base" if iteration == BASE else f"iteration {iteration}"
