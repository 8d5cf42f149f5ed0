"""Which iteration of a run is the best: computed from its hashed reports and the gates, never from the event log."""

from typing import Any

from raft_core import gates
from raft_core.errors import IntegrityError
from raft_core.files.artifacts import file_digest
from raft_core.files.plain_json import read_object
from raft_core.gates import Decision
from raft_core.records.run import Commit, Run, read_chain

REPORT = "report.json"


def read_scorecard(run: Run, commit: Commit) -> dict[str, Any]:
    """The report that ``commit`` names. Raises IntegrityError if it was changed or cannot be read."""
    path = run.folder(commit.iteration) / REPORT
    expected = commit.outputs.get(REPORT)
    try:
        report = read_object(path)
        if expected is not None and (got := file_digest(path)) != expected:
            raise IntegrityError(
                f"changed bytes: {path}", got=f"sha256 {got}", expected=f"sha256 {expected}", hint="restore it from git"
            )
    except (OSError, ValueError) as error:
        raise IntegrityError(f"unreadable report: {path}", got=error, hint="restore it from git") from error
    return report


def decision_of(run: Run) -> Decision | None:
    """The decision of the gates after the last commit; None before the base is committed. Raises IntegrityError."""
    reports = [read_scorecard(run, commit) for commit in read_chain(run)]
    if not reports:
        return None
    try:
        return gates.decide(reports[0], reports[1:], run.config.gates, run.config.iterations)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise IntegrityError(
            f"the gates cannot read the figures in the reports of run {run.name}",
            got=error,
            expected="report.json of every iteration as raft wrote it",
            hint=f"restore report.json in {run.path} from git",
        ) from error
