"""One gate of promotion: its figure against the reference, its limit, and whether it passes."""

from collections.abc import Iterator
from dataclasses import dataclass

from raft_core.evaluation.statistics import Interval

Means = tuple[float | None, float | None]
"""Of the candidate and of the reference."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One gate with its figures. ``rule`` names the bound that is compared with ``threshold``.

    ``figure``: what is measured, in words; ``key``: of the rules file that sets the limit.
    """

    gate: str
    value: float | None
    low: float | None
    high: float | None
    rule: str
    threshold: float
    passed: bool
    candidate: float | None = None
    reference: float | None = None
    note: str = ""
    figure: str = "figure"
    key: str = ""


def at_least(gate: str, got: float, threshold: float, *, figure: str, key: str) -> Iterator[Finding]:
    """A count or share that must reach ``threshold``."""
    yield Finding(gate, got, None, None, "at least", threshold, got >= threshold, figure=figure, key=key)


def lower(
    gate: str,
    got: Interval,
    threshold: float | None,
    means: Means = (None, None),
    *,
    figure: str,
    key: str,
    note: str = "",
) -> Iterator[Finding]:
    """The lower bound must be above ``threshold``; no finding where the gate is off (None)."""
    if threshold is not None:
        passed = got.low is not None and got.low > threshold
        yield _finding(gate, got, "low >", threshold, passed, means, note, figure, key)


def upper(gate: str, got: Interval, threshold: float | None, *, figure: str, key: str) -> Iterator[Finding]:
    """The upper bound must be below ``threshold``; no finding where the gate is off (None)."""
    if threshold is not None:
        passed = got.high is not None and got.high < threshold
        yield _finding(gate, got, "high <", threshold, passed, (None, None), "", figure, key)


def minus(value: float | None) -> float | None:
    """−value; None where a gate is off."""
    return None if value is None else -value


def _finding(
    gate: str, got: Interval, rule: str, threshold: float, passed: bool, means: Means, note: str, figure: str, key: str
) -> Finding:
    if got.low is None or got.high is None:
        note = "not measured: provide what the gate needs, or set its key to null"
    return Finding(gate, got.mean, got.low, got.high, rule, threshold, passed, *means, note, figure, key)
