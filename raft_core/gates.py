"""Pure decisions after an iteration: may the run go on, and which iteration is the best one.

The budget is held against the base (row −1). What moves first when a reward is exploited: the KL to
the start, the perplexity of real text and distinct-1; then truncation and length, distinct-2, and
the head-room (best of K minus mean). Second scorers stay high through a collapse, so a gold reward
is told, but is no gate.

The head-room is a fact of the *training batch*: it was sampled by the policy before this
iteration's training, on prompts that change every iteration, and it also shrinks when a bounded
reward comes near its ceiling. So too little of it stops the run (nothing is left to rank), but
does not take an iteration out of the budget by itself; every other breach does.

Values that are None breach nothing, and the reason names them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raft_core.config import GatesConfig

Report = Mapping[str, Any]
"""A scorecard, see ``evaluation.scorecard``."""

BASE = -1


@dataclass(frozen=True, slots=True)
class Limit:
    """The allowed range of a metric; None is open."""

    metric: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Breach:
    """A metric outside its limit."""

    metric: str
    got: float
    limit: float

    def __str__(self) -> str:
        side = "below" if self.got < self.limit else "above"
        return f"{self.metric} {self.got:.4g} is {side} {self.limit:.4g}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do. ``best``: the iteration to keep (−1: the base). ``reason``: one sentence with the figures."""

    go_on: bool
    kind: Literal["advance", "converged", "completed", "stopped"]
    reason: str
    best: int
    breaches: tuple[Breach, ...] = ()


def decide(base: Report, reports: Sequence[Report], gates: GatesConfig, iterations: int) -> Decision:
    """After the iterations ``reports`` (0, 1, … in order; none yet: only the base) of ``iterations`` planned.

    Stopped: the last iteration is outside the budget. Converged: its paired gain against
    ``convergence_window`` iterations ago is not above 0 with confidence. Completed: all are done.
    Every decision names the best iteration inside the budget: the highest held-out reward of the
    base and of all iterations within, the earlier one if equal.
    """
    best = best_iteration(base, reports, gates)
    if not reports:
        return Decision(True, "advance", f"the base is evaluated: reward {_figure(base.get('reward'))}", BASE)
    last, number = reports[-1], len(reports) - 1
    kept = "the base is kept" if best == BASE else f"iteration {best} is the best inside the budget"
    facts = f"{_change(base, last)}{_unmeasured(base, reports, gates)}"
    if breaches := within_budget(last, base, reports[0], gates):
        told = ", ".join(map(str, breaches))
        return Decision(False, "stopped", f"iteration {number}: {told}; {kept} ({facts})", best, tuple(breaches))
    if gates.convergence_window is not None and _no_gain(last):
        gain, low, high = (_figure(last[name]) for name in ("paired_gain", "paired_gain_low", "paired_gain_high"))
        return Decision(
            False, "converged",
            f"iteration {number}: no gain against {gates.convergence_window} iterations ago "
            f"({gain}, between {low} and {high}); {kept} ({facts})",
            best,
        )  # fmt: skip
    if len(reports) >= iterations:
        return Decision(False, "completed", f"all {iterations} iterations are done; {kept} ({facts})", best)
    return Decision(True, "advance", f"iteration {number} is inside the budget ({facts})", best)


def best_iteration(base: Report, reports: Sequence[Report], gates: GatesConfig) -> int:
    """The iteration with the highest held-out reward among the base (−1) and those inside the budget."""
    best, reward = BASE, base.get("reward")
    for number, report in enumerate(reports):
        got = report.get("reward")
        outside = [b for b in within_budget(report, base, reports[0], gates) if b.metric != "headroom"]
        if got is not None and not outside and (reward is None or got > reward):
            best, reward = number, got
    return best


def within_budget(report: Report, base: Report, first: Report, gates: GatesConfig) -> list[Breach]:
    """Every limit that ``report`` breaks. ``first``: the report of iteration 0, for the head-room."""
    breaches = []
    for limit in limits(base, first, gates):
        got = report.get(limit.metric)
        if got is None:
            continue
        if limit.high is not None and not got <= limit.high:
            breaches.append(Breach(limit.metric, got, limit.high))
        elif limit.low is not None and not got >= limit.low:
            breaches.append(Breach(limit.metric, got, limit.low))
    return breaches


def limits(base: Report, first: Report, gates: GatesConfig) -> list[Limit]:
    """The limits that can be told from the base's report and the first iteration's, in order of warning."""
    return [
        limit
        for limit in (
            Limit("kl", high=gates.max_kl),
            Limit("perplexity", high=_times(base.get("perplexity"), gates.max_perplexity_rise, plus=1)),
            Limit("distinct_1", low=_times(base.get("distinct_1"), gates.min_distinct_1)),
            Limit("truncation", high=_plus(base.get("truncation"), gates.max_truncation_rise)),
            _length(base.get("mean_length"), gates.max_length_factor),
            Limit("distinct_2", low=_times(base.get("distinct_2"), gates.min_distinct_2)),
            Limit("headroom", low=_times(first.get("headroom"), gates.min_headroom)),
        )
        if limit.low is not None or limit.high is not None
    ]


_SWITCHES = {
    "kl": "max_kl", "perplexity": "max_perplexity_rise", "distinct_1": "min_distinct_1",
    "truncation": "max_truncation_rise", "mean_length": "max_length_factor", "distinct_2": "min_distinct_2",
    "headroom": "min_headroom",
}  # fmt: skip
"""Metric → the key that switches its gate on."""


def _times(value: float | None, factor: float | None, *, plus: float = 0.0) -> float | None:
    return None if value is None or factor is None else value * (plus + factor)


def _plus(value: float | None, rise: float | None) -> float | None:
    return None if value is None or rise is None else value + rise


def _length(value: float | None, factor: float | None) -> Limit:
    """Empty completions have no length that a factor could be held against."""
    if not value or factor is None:
        return Limit("mean_length")
    return Limit("mean_length", low=value / factor, high=value * factor)


def _no_gain(report: Report) -> bool:
    low = report.get("paired_gain_low")
    return low is not None and not low > 0


def _change(base: Report, last: Report) -> str:
    """The figures that a reader wants with every decision."""
    names = ("reward", "gold_reward", "kl", "perplexity", "distinct_2")
    return ", ".join(f"{n} {_figure(base.get(n))} -> {_figure(last.get(n))}" for n in names if last.get(n) is not None)


def _unmeasured(base: Report, reports: Sequence[Report], gates: GatesConfig) -> str:
    known = {limit.metric for limit in limits(base, reports[0], gates)}
    missing = [
        metric
        for metric, switch in _SWITCHES.items()
        if getattr(gates, switch) is not None and (metric not in known or reports[-1].get(metric) is None)
    ]
    return f"; not measured: {', '.join(missing)}" if missing else ""


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
