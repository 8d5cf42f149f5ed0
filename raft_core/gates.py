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

from raft_core.config.gates import GatesConfig

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


@dataclass(frozen=True, slots=True)
class Breach:
    """A metric beyond its limit; ``origin`` as in ``Limit``."""

    metric: str
    got: float
    limit: float
    origin: str = ""

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
        return Decision(False, "completed", f"all {iterations} iterations are done; {kept}", best)
    facts = f"{_change(base, last)}{_unmeasured(base, reports, gates)}"
    return Decision(True, "advance", f"iteration {number} is within all limits ({facts})", best)


def best_iteration(base: Report, reports: Sequence[Report], gates: GatesConfig) -> int:
    """The iteration with the highest held-out reward among the base (−1) and those within all limits."""
    best, reward = BASE, base.get("reward")
    for number, report in enumerate(reports):
        got = report.get("reward")
        outside = [b for b in within_budget(report, base, reports[0], gates) if b.metric != "headroom"]
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
            breaches.append(Breach(limit.metric, got, limit.high, limit.origin))
        elif limit.low is not None and not got >= limit.low:
            breaches.append(Breach(limit.metric, got, limit.low, limit.origin))
    return breaches


def limits(base: Report, first: Report, gates: GatesConfig) -> list[Limit]:
    """The limits that follow from the reports of the base and of iteration 0; those that move first come first."""
    every = (
        Limit("kl", high=gates.max_kl, origin="gates.max_kl"),
        _relative("perplexity", base, gates.max_perplexity_rise, above=True),
        _relative("distinct_1", base, gates.min_distinct_1),
        _truncation(base.get("truncation"), gates.max_truncation_rise),
        _length(base.get("mean_length"), gates.max_length_factor),
        _relative("distinct_2", base, gates.min_distinct_2),
        _relative("headroom", first, gates.min_headroom, of="iteration 0"),
    )
    return [limit for limit in every if limit.low is not None or limit.high is not None]


_SWITCHES = {
    "kl": "max_kl",
    "perplexity": "max_perplexity_rise",
    "distinct_1": "min_distinct_1",
    "truncation": "max_truncation_rise",
    "mean_length": "max_length_factor",
    "distinct_2": "min_distinct_2",
    "headroom": "min_headroom",
}
"""Metric → the key that sets its limit."""

_SLOWER = "lower finetuning.learning_rate or iterations"
_MORE_VARIED = f"raise sampling.temperature, or {_SLOWER}"
_REMEDIES = {
    "kl": _SLOWER,
    "perplexity": _SLOWER,
    "distinct_1": _MORE_VARIED,
    "distinct_2": _MORE_VARIED,
    "truncation": "raise sampling.max_new_tokens, or choose a reward that does not favor long completions",
    "mean_length": "choose a reward that does not depend on length",
    "headroom": "raise sampling.temperature or sampling.samples_per_prompt, or use harder prompts",
}
"""Metric → what to change when its limit is broken, apart from the limit itself."""


def _remedies(breaches: Sequence[Breach]) -> str:
    """What to change, each advice once."""
    advice = "; ".join(dict.fromkeys(_REMEDIES[breach.metric] for breach in breaches))
    keys = ", ".join(dict.fromkeys(f"gates.{_SWITCHES[breach.metric]}" for breach in breaches))
    return f"to continue further, {advice}; or relax {keys}"


def _relative(metric: str, than: Report, factor: float | None, *, above: bool = False, of: str = "base") -> Limit:
    """At least ``factor`` times the value in ``than``; with ``above`` at most ``1 + factor`` times it."""
    value, key = than.get(metric), f"gates.{_SWITCHES[metric]}"
    if value is None or factor is None:
        return Limit(metric)
    times = 1 + factor if above else factor
    origin = f"{of}: {value:.4g} × {times:.4g}; {key}: {factor:.4g}"
    return Limit(metric, None if above else value * times, value * times if above else None, origin)


def _truncation(value: float | None, rise: float | None) -> Limit:
    if value is None or rise is None:
        return Limit("truncation")
    origin = f"base: {value:.4g} + {rise:.4g}; gates.max_truncation_rise: {rise:.4g}"
    return Limit("truncation", high=value + rise, origin=origin)


def _length(value: float | None, factor: float | None) -> Limit:
    """No limit where the base's completions are empty: a factor of 0 means nothing."""
    if not value or factor is None:
        return Limit("mean_length")
    origin = f"base: {value:.4g} × or ÷ {factor:.4g}; gates.max_length_factor: {factor:.4g}"
    return Limit("mean_length", low=value / factor, high=value * factor, origin=origin)


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
