"""What ``raft show`` and ``raft runs`` show of a run: its commits and reports, joined with its events."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raft_core.errors import ConfigError, RaftError
from raft_core.files.locks import is_held
from raft_core.metrics.base import Figure
from raft_core.metrics.registry import figures
from raft_core.records.best import decision_of, read_scorecard
from raft_core.records.names import RUN_NAME, check_run_name
from raft_core.records.run import Run, early_end, read_chain, read_events, read_run

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunView:
    """A run to be shown. ``rows``: the flat report of each iteration and its seconds, base first.

    ``status``: running, completed, converged, stopped (by a gate or a validation), failed (by an error) or
    interrupted (by a person or a kill); broken if its records cannot be read.
    """

    name: str
    status: str
    best: int | None
    reason: str
    planned: int
    rows: Sequence[Row]
    warnings: Sequence[str]
    decisions: Sequence[Mapping[str, Any]]
    figures: Sequence[Figure] = field(default_factory=lambda: tuple(figures()))
    """What the rows report, with titles and decimals."""

    def as_json(self) -> dict[str, Any]:
        """The document of ``raft show --json``."""
        return {
            "name": self.name,
            "status": self.status,
            "best": self.best,
            "reason": self.reason,
            "iterations": [dict(row) for row in self.rows],
        }

    @property
    def reward(self) -> float | None:
        """The held-out reward of the best iteration, or of the last one while no best is known."""
        best = [row for row in self.rows if row["iteration"] == self.best] or self.rows[-1:]
        reward: float | None = best[0].get("reward") if best else None
        return reward

    def summary(self) -> dict[str, Any]:
        """One entry of ``raft runs --json``."""
        return {
            "name": self.name,
            "status": self.status,
            "best": self.best,
            "reason": self.reason,
            "iterations_done": max(len(self.rows) - 1, 0),
            "iterations_planned": self.planned,
            "reward_base": self.rows[0].get("reward") if self.rows else None,
            "reward": self.reward,
        }


def find_run(workspace: Path, name: str | None) -> Run:
    """The run called ``name``, or the one that was used last. Raises ConfigError if there is none."""
    runs = workspace / "runs"
    if name is not None:
        return read_run(runs / check_run_name(name))
    paths = list(run_paths(workspace))
    if not paths:
        raise ConfigError(f"there is no run in {runs}", hint="start one with raft align configs/tiny.yaml")
    return read_run(max(paths, key=last_touched))


def run_paths(workspace: Path) -> Iterator[Path]:
    """The folder of every run in a workspace, sorted by name."""
    runs = workspace / "runs"
    for path in sorted(runs.iterdir()) if runs.is_dir() else ():
        if RUN_NAME.fullmatch(path.name) and (path / "config.yaml").is_file():
            yield path


def last_touched(path: Path) -> float:
    """When the run in ``path`` was last used, in seconds since the epoch."""
    files = (path / "events.jsonl", path / "config.yaml")
    return max(file.stat().st_mtime for file in files if file.exists())


def view_run(run: Run) -> RunView:
    """Read everything that is shown of a run. Raises IntegrityError if a commit or report was edited."""
    chain = read_chain(run)
    reports = [read_scorecard(run, commit) for commit in chain]
    seconds = _seconds(read_events(run, "step"))
    rows = [
        {"iteration": commit.iteration, **_flat(report), **seconds[commit.iteration]}
        for commit, report in zip(chain, reports, strict=True)
    ]
    status, best, reason = _state(run, reports)
    return RunView(
        name=run.name,
        status=status,
        best=best,
        reason=reason,
        planned=run.config.iterations,
        rows=rows,
        warnings=[str(event.get("message", "")) for event in read_events(run, "warning")],
        decisions=read_events(run, "decision"),
        figures=tuple(figures(run.config.evaluation.metrics)),
    )


def view_or_fault(path: Path) -> RunView:
    """Like ``view_run``, but a run that cannot be read gets status broken, so that a list of runs still works."""
    try:
        return view_run(read_run(path))
    except RaftError as error:
        return RunView(path.name, "broken", None, error.what, 0, (), (), ())
    except (OSError, ValueError, TypeError, KeyError) as error:
        return RunView(path.name, "broken", None, f"its records cannot be read: {error!r}", 0, (), (), ())


def is_running(run: Run) -> bool:
    """Whether a process is working on the run."""
    return is_held(run.path / "lock")


def _state(run: Run, reports: Sequence[Mapping[str, Any]]) -> tuple[str, int | None, str]:
    """Status, best iteration and reason. They are computed from commits, so a clone without events shows the same."""
    done, planned, running = len(reports) - 1, run.config.iterations, is_running(run)
    ended = None if running else _last_end(run)
    if done < 0:
        if ended is not None:
            return ended[0], None, f"{ended[1]}; nothing is finished yet"
        return _alive(running), None, "the base is being evaluated" if running else "nothing is finished yet"
    decision = decision_of(run)
    assert decision is not None
    recorded = (run.path / "events.jsonl").exists()
    if not decision.go_on and not running and (read_events(run, "finished") or not recorded):
        return decision.kind, decision.best, decision.reason
    if not decision.go_on:
        reason = f"{decision.reason}; MLflow and DVC are not up to date yet: raft sync {run.name}"
        if ended is not None:
            return ended[0], decision.best, f"{reason}; {ended[1]}"
        return _alive(running), decision.best, reason
    if ended is None and not running and (stopped_by := sorted(run.folder(done).glob("validation_*.md"))):
        return (
            "stopped",
            decision.best,
            f"validation stopped iteration {done}: read {stopped_by[-1].relative_to(run.path.parents[1])}",
        )
    if running:
        return "running", decision.best, f"iteration {done} (of 0–{planned - 1}) is in progress"
    so_far = f"{done} of {planned} iterations are done"
    if ended is not None:
        return ended[0], decision.best, f"{ended[1]}; {so_far}"
    return "interrupted", decision.best, f"{so_far}; raft resume {run.name} continues it"


def _last_end(run: Run) -> tuple[str, str] | None:
    """Status and reason if the last process that worked on the run recorded why it ended; None: it was killed."""
    if (end := early_end(run)) is None:
        return None
    status, reason = end[0], "; ".join(end[1].split("\n  "))
    if status == "interrupted":
        return status, f"stopped by Ctrl-C or SIGTERM; raft resume {run.name} continues it"
    if status == "failed":
        reason = f"{reason}; fix that first, then raft resume {run.name} continues it"
    return status, reason


def _alive(running: bool) -> str:
    return "running" if running else "interrupted"


def _flat(report: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if key != "iteration" and not isinstance(value, dict | list)}


def _seconds(steps: Sequence[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """Iteration → {"seconds": all, "seconds_sample": …}; a step that ran more than once counts each time."""
    spent: dict[int, dict[str, float]] = defaultdict(lambda: {"seconds": 0.0})
    for event in steps:
        took, key = float(event.get("seconds", 0.0)), f"seconds_{event['step']}"
        row = spent[int(event["iteration"])]
        row["seconds"] = round(row["seconds"] + took, 3)
        row[key] = round(row.get(key, 0.0) + took, 3)
    return spent
