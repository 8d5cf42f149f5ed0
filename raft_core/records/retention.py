"""Which weights ``raft gc`` may remove: a pure decision on facts about the runs. Tables and digests always stay.

A policy is kept if any rule keeps it; the first such rule is the reason. A policy that no rule keeps may be removed.
Reading runs and registries, and removing, are in ``tasks.versioning.gc``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from raft_core.config.loading import load_document

DAY_S = 86400.0


class Retention(BaseModel):
    """What to keep besides registered and promoted policies (``configs/retention.yaml``)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_runs: int = Field(3, ge=0, description="keep every policy of so many most recently used runs")
    keep_days: float = Field(14.0, ge=0, description="keep every policy of runs used within so many days")
    keep_best: bool = Field(True, description="keep the best policy of each run")
    remote: bool = Field(
        False, description="also remove objects from DVC's remote; only if no other workspace shares it"
    )


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Facts about one run. ``age_s``: seconds since it was last used; ``policies``: iteration → commit digest."""

    name: str
    age_s: float
    finished: bool
    best: int | None
    policies: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``kept``: why the policy is kept; None: it may be removed."""

    run: str
    iteration: int
    kept: str | None


def verdicts(runs: Sequence[RunFacts], named: Mapping[str, str], rules: Retention) -> list[Verdict]:
    """Decide for every policy. ``named``: commit digest → why the registry or ledger still needs it."""
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
        return "the best policy of its run"
    if run.name in latest:
        return f"its run is one of the {rules.keep_runs} most recent (keep_runs)"
    if run.age_s <= rules.keep_days * DAY_S:
        return f"its run was used within {rules.keep_days:g} days (keep_days)"
    return None


def load_retention(path: Path | None, overrides: Sequence[str] = ()) -> Retention:
    """The rules in ``path`` (None: the defaults) with ``overrides`` ("keep_runs=5"). Raises ConfigError."""
    return load_document(Retention, path, overrides, what="retention rules", see="configs/retention.yaml")
