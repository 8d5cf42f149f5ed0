"""Which weights may go: a pure decision over what is known about the runs. Tables and digests always stay.

An iteration's policy is kept if any rule says so; the first one that does is its reason. What nothing
names may go. Reading, asking registries and deleting are others' work (``tasks.versioning.gc``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from raft_core.config.loading import load_document

DAY_S = 86400.0


class Retention(BaseModel):
    """What to keep beside what is registered or promoted (``configs/retention.yaml``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_runs: int = Field(3, ge=0, description="every policy of the runs that were worked on last")
    keep_days: float = Field(14.0, ge=0, description="every policy of a run that was worked on within so many days")
    keep_best: bool = Field(True, description="the best policy of each run")
    remote: bool = Field(False, description="remove objects from DVC's remote too; not if workspaces share it")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What the decision looks at. ``age_s``: since it was last worked on; ``policies``: iteration → commit digest."""

    name: str
    age_s: float
    finished: bool
    best: int | None
    policies: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``kept``: why the policy stays; None: it may go."""

    run: str
    iteration: int
    kept: str | None


def verdicts(runs: Sequence[RunFacts], named: Mapping[str, str], rules: Retention) -> list[Verdict]:
    """What is to become of every policy. ``named``: commit digest → why somebody still needs it."""
    latest = {run.name for run in sorted(runs, key=lambda run: (run.age_s, run.name))[: rules.keep_runs]}
    return [
        Verdict(run.name, iteration, _reason(run, iteration, commit, named, rules, latest))
        for run in runs
        for iteration, commit in sorted(run.policies.items())
    ]


def _reason(
    run: RunFacts, iteration: int, commit: str, named: Mapping[str, str], rules: Retention, latest: set[str]
) -> str | None:
    if commit in named:
        return named[commit]
    if not run.finished:
        return "its run is not finished"
    if rules.keep_best and iteration == run.best:
        return "the best of its run"
    if run.name in latest:
        return f"one of the last {rules.keep_runs} runs"
    if run.age_s <= rules.keep_days * DAY_S:
        return f"worked on within {rules.keep_days:g} days"
    return None


def load_retention(path: Path | None, overrides: Sequence[str] = ()) -> Retention:
    """The rules in ``path`` (None: the defaults) with ``overrides`` ("keep_runs=5"). Raises ConfigError."""
    return load_document(Retention, path, overrides, what="file of rules of retention", see="configs/retention.yaml")
