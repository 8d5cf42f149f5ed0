"""Pure decisions after an iteration: whether the run continues, and which iteration is the best one.

Limits are relative to the base (iteration −1). When a reward is exploited, the KL to the base, the perplexity of real
text and distinct-1 move first; then truncation and length, distinct-2, and the head-room (best of K minus mean).
Second scorers stay high through a collapse, so a gold reward is reported but has no limit.

The head-room describes the *training batch*: it was sampled by the policy before this iteration's training, on prompts
that change every iteration, and it also shrinks when a bounded reward comes near its maximum. So too little of it
stops the run (nothing is left to rank), but does not disqualify an iteration from being the best; every other breach
does.

A metric that is None breaks no limit, and the reason lists it as not measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from raft_core.config.gates import GatesConfig, LimitConfig
from raft_core.metrics.base import Gate
from raft_core.metrics.registry import figures
from raft_core.metrics.registry import gates as known_gates

Report = Mapping[str, Any]
"""A scorecard, see ``evaluation.scorecard``."""

BASE = -1


@dataclass(frozen=True, slots=True)
class Limit:
    """The allowed range of a metric; None: no limit on that side. ``origin``: the figure that the limit is relative
    to, if any, and the configuration key that sets it, in words."""

    metric: str
    low: float | None = None
    high: float | None = None
    origin: str = ""
    only_stops: bool = False
    """A breach ends the run, but the iteration may still be the best one."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A metric beyond its limit; ``origin`` as in ``Limit``."""

    metric: str
    got: float
    limit: float
    origin: str = ""
    only_stops: bool = False

    def __str__(self) -> str:
        side = "below the minimum" if self.got < self.limit else "above the maximum"
        origin = f" ({self.origin})" if self.origin else ""
        return f"{self.metric} {self.got:.4g} is {side} of {self.limit:.4g}{origin}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What happens next. ``best``: the iteration to keep (−1: the base). ``reason``: one sentence with the figures."""

    go_on: bool
    kind: Literal["advance", "converged", "completed", "stopped"]
    reason: str
    best: int
    breaches: tuple[Breach, ...] = ()


def decide(base: Report, reports: Sequence[Report], gates: GatesConfig, iterations: int) -> Decision:
    """Decide after ``reports`` of iterations 0, 1, … (empty: only the base is done), of ``iterations`` planned.

    Stopped: the last iteration breaks a limit. Converged: the confidence interval of its paired gain over
    ``convergence_window`` iterations is not above 0. Completed: all iterations are done. Every decision names the best
    iteration: the highest held-out reward among the base and the iterations within all limits, the earlier one if
    equal. The reason of a run that ends quotes the figures of that iteration.
    """
    best = best_iteration(base, reports, gates)
    if not reports:
        return Decision(
            True, "advance", f"the base policy is evaluated: held-out reward {_figure(base.get('reward'))}", BASE
        )
    last, number = reports[-1], len(reports) - 1
    kept = _kept(base, reports, best, gates)
    if breaches := within_budget(last, base, reports[0], gates):
        broken = ", ".join(map(str, breaches))
        reason = f"iteration {number}: {broken}; {kept}; {_remedies(breaches)}"
        return Decision(False, "stopped", reason, best, tuple(breaches))
    if gates.convergence_window is not None and _no_gain(last):
        gain, low, high = (_figure(last[name]) for name in ("paired_gain", "paired_gain_low", "paired_gain_high"))
        return Decision(
            False,
            "converged",
            f"iteration {number}: no gain in held-out reward over {gates.convergence_window} iterations "
            f"(mean gain {gain}, between {low} and {high}; gates.convergence_window); {kept}",
            best,
        )
    if len(reports) >= iterations:
        done = "the only iteration is done" if iterations == 1 else f"all {iterations} iterations are done"
        return Decision(False, "completed", f"{done}; {kept}", best)
    facts = f"{_change(base, last)}{_unmeasured(base, reports, gates)}"
    return Decision(True, "advance", f"iteration {number} is within all limits ({facts})", best)


def best_iteration(base: Report, reports: Sequence[Report], gates: GatesConfig) -> int:
    """The iteration with the highest held-out reward among the base (−1) and those within all limits."""
    best, reward = BASE, base.get("reward")
    for number, report in enumerate(reports):
        got = report.get("reward")
        outside = [b for b in within_budget(report, base, reports[0], gates) if not b.only_stops]
        if got is not None and not outside and (reward is None or got > reward):
            best, reward = number, got
    return best


def within_budget(report: Report, base: Report, first: Report, gates: GatesConfig) -> list[Breach]:
    """Every limit that ``report`` breaks. ``first``: the report of iteration 0, which the head-room is relative to."""
    breaches = []
    for limit in limits(base, first, gates):
        got = report.get(limit.metric)
        if got is None:
            continue
        if limit.high is not None and not got <= limit.high:
            breaches.append(Breach(limit.metric, got, limit.high, limit.origin, limit.only_stops))
        elif limit.low is not None and not got >= limit.low:
            breaches.append(Breach(limit.metric, got, limit.low, limit.origin, limit.only_stops))
    return breaches


def limits(base: Report, first: Report, gates: GatesConfig) -> list[Limit]:
    """The limits that follow from the reports of the base and of iteration 0; those that move first come first."""
    every = [_limit(gate, getattr(gates, gate.key), first if gate.since == "first" else base) for gate in known_gates()]
    every += [_own_limit(chosen, base) for chosen in gates.limits]
    return [limit for limit in every if limit.low is not None or limit.high is not None]


def _limit(gate: Gate, value: float | None, since: Report) -> Limit:
    """The range that ``gates.KEY: value`` allows; open if the key is null, or what it is relative to is not known."""
    key = f"gates.{gate.key}"
    if value is None:
        return Limit(gate.figure)
    if gate.rule == "at_most":
        return Limit(gate.figure, high=value, origin=key)
    start, of = since.get(gate.figure), "iteration 0" if gate.since == "first" else "base"
    if start is None or (gate.rule == "either_way" and not start):  # 0 times any factor is 0
        return Limit(gate.figure)
    change = {
        "rise": f"× {1 + value:.4g}",
        "factor": f"× {value:.4g}",
        "added": f"+ {value:.4g}",
        "either_way": f"× or ÷ {value:.4g}",
    }
    origin = f"{of}: {start:.4g} {change[gate.rule]}; {key}: {value:.4g}"
    if gate.rule == "factor":
        return Limit(gate.figure, low=start * value, origin=origin, only_stops=gate.only_stops)
    if gate.rule == "either_way":
        return Limit(gate.figure, low=start / value, high=start * value, origin=origin)
    return Limit(gate.figure, high=start * (1 + value) if gate.rule == "rise" else start + value, origin=origin)


def _own_limit(chosen: LimitConfig, base: Report) -> Limit:
    """One of ``gates.limits``. Relative: a factor f allows a change of (f − 1) times the size of the base figure."""
    if not chosen.relative:
        return Limit(chosen.figure, chosen.min, chosen.max, f"gates.limits: {chosen.figure}")
    start = base.get(chosen.figure)
    if not start:  # there is no factor of 0
        return Limit(chosen.figure)
    low, high = (None if f is None else start + (f - 1) * abs(start) for f in (chosen.min, chosen.max))
    return Limit(chosen.figure, low, high, f"base: {start:.4g}; gates.limits: {chosen.figure}")


def _remedies(breaches: Sequence[Breach]) -> str:
    """What to change, each advice once."""
    found = {gate.figure: gate for gate in known_gates()}
    gates = [found[breach.metric] for breach in breaches if breach.metric in found]
    advice = "; ".join(dict.fromkeys(gate.remedy for gate in gates))
    keys = [f"gates.{gate.key}" for gate in gates]
    keys += ["gates.limits" for breach in breaches if breach.metric not in found]
    relax = f"relax {', '.join(dict.fromkeys(keys))}"
    return f"to get further, {advice}; or {relax}" if advice else f"to get further, {relax}"


def _no_gain(report: Report) -> bool:
    low = report.get("paired_gain_low")
    return low is not None and not low > 0


def _kept(base: Report, reports: Sequence[Report], best: int, gates: GatesConfig) -> str:
    """Which iteration is kept, with its figures; if it is the base, with those of the last iteration to say why."""
    if best != BASE:
        facts = f"{_change(base, reports[best])}{_unmeasured(base, reports[: best + 1], gates)}"
        return f"iteration {best} is the best within all limits ({facts})"
    facts = f"{_change(base, reports[-1])}{_unmeasured(base, reports, gates)}"
    return f"the base policy is kept (iteration {len(reports) - 1}: {facts})"


def _change(base: Report, last: Report) -> str:
    """The main figures, base -> iteration."""
    names = [figure.name for figure in figures() if figure.headline and not figure.percent]
    return ", ".join(f"{n} {_figure(base.get(n))} -> {_figure(last.get(n))}" for n in names if last.get(n) is not None)


def _unmeasured(base: Report, reports: Sequence[Report], gates: GatesConfig) -> str:
    known = {limit.metric for limit in limits(base, reports[0], gates)}
    wanted = [gate.figure for gate in known_gates() if getattr(gates, gate.key) is not None]
    wanted += [chosen.figure for chosen in gates.limits]
    missing = [name for name in wanted if name not in known or reports[-1].get(name) is None]
    return f"; not measured: {', '.join(missing)}" if missing else ""


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
