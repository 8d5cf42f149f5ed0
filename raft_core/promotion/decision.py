"""Decide whether a candidate may become the champion: a pure function of paired evidence.

Candidate and reference (the champion; without one the candidate's own base) answered the same prompts with the same
random streams, so a difference on a prompt is a difference between the policies. Every gate applies to a bound of an
interval, never to the mean: a gain must be shown and a loss must be ruled out, so that too few prompts cannot pass by
chance.

| gate | figure | passes if |
|---|---|---|
| reward | mean paired gain | lower bound > min_reward_gain |
| gold_reward | mean paired gain | lower bound > −max_gold_loss |
| perplexity | exp((NLL − NLL of the reference) / tokens of the reference) − 1, on a fixed text | upper bound < max |
| distinct_1, distinct_2 | ratio to the reference's | lower bound > min (jackknife over prompts) |
| kl | nats per sequence to the candidate's own base | upper bound < max |
| truncation | rise in the share of completions cut off by length | upper bound < max |
| slice:GROUP | mean paired gain in a prompt group | lower bound > −max_slice_loss |
| safety | share of answers that pass the suite | lower bound (Wilson, over prompts) > min_safe_share |
| safety_gain | mean paired gain in that share, per prompt | lower bound > −max_safety_loss |
| paired_prompts, scored_share | prompts with a reward on both sides | at least |
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.evaluation.statistics import (
    NOTHING,
    Interval,
    jackknife,
    mean_interval,
    paired_gain,
    ratio_interval,
    wilson,
)
from raft_core.metrics.diversity import distinct, distinct_left_out
from raft_core.promotion.rules import PromotionRules


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one policy answered: its EVALUATION, PERPLEXITY and, with a safety suite, SAFETY tables."""

    evaluation: pa.Table
    perplexity: pa.Table
    safety: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One gate with its figures. ``rule`` names the bound that is compared with ``threshold``."""

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


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision: passed if every gate passes."""

    findings: tuple[Finding, ...]
    num_prompts: int
    num_paired: int

    @property
    def passed(self) -> bool:
        """Whether every gate passes."""
        return all(finding.passed for finding in self.findings)

    @property
    def reason(self) -> str:
        """One sentence with the figures."""
        failed = [describe(finding) for finding in self.findings if not finding.passed]
        if failed:
            return "; ".join(failed)
        reward = next((describe(f) for f in self.findings if f.gate == "reward"), "there is no gate on the reward")
        return f"all {len(self.findings)} gates pass on {self.num_paired} prompts: {reward}"

    def as_json(self) -> dict[str, Any]:
        """What goes into the ledger."""
        findings = [asdict(finding) for finding in self.findings]
        return {
            "passed": self.passed,
            "reason": self.reason,
            "num_prompts": self.num_prompts,
            "num_paired": self.num_paired,
            "findings": findings,
        }


def describe(finding: Finding) -> str:
    """A gate as a clause with figure, interval, limit and key, for a sentence in the ledger."""
    value, low, high, threshold = (_figure(v) for v in (finding.value, finding.low, finding.high, finding.threshold))
    between = f", {low} to {high}" if finding.low is not None else ""
    note = f"; {finding.note}" if finding.note else ""
    limit = f"{_LIMITS[finding.rule]} {threshold}, {_key(finding.gate)}"
    outcome = "passes" if finding.passed else "does not pass"
    return f"{finding.gate} {outcome} ({_FIGURES.get(_kind(finding.gate), 'figure')} {value}{between}; {limit}{note})"


_LIMITS = {"low >": "the lower bound must be above", "high <": "the upper bound must be below", "at least": "minimum"}
"""``Finding.rule`` in words."""
_FIGURES = {
    "paired_prompts": "prompts with a reward on both sides",
    "scored_share": "share of prompts with a reward on both sides",
    "reward": "mean gain",
    "gold_reward": "mean gain",
    "perplexity": "relative rise",
    "distinct_1": "ratio to the reference",
    "distinct_2": "ratio to the reference",
    "kl": "nats per sequence to the base",
    "truncation": "rise in the share cut off by length",
    "slice": "mean gain",
    "safety": "share of safe answers",
    "safety_gain": "mean gain in the share of safe answers",
}
_KEYS = {
    "paired_prompts": "min_paired_prompts",
    "scored_share": "min_scored_share",
    "reward": "min_reward_gain",
    "gold_reward": "max_gold_loss",
    "perplexity": "max_perplexity_rise",
    "distinct_1": "min_distinct_1",
    "distinct_2": "min_distinct_2",
    "kl": "max_kl",
    "truncation": "max_truncation_rise",
    "slice": "max_slice_loss",
    "safety": "min_safe_share",
    "safety_gain": "max_safety_loss",
}
"""Gate → key of the rules file that sets its limit."""


def _kind(gate: str) -> str:
    """The gate's name without the prompt group of a slice."""
    return gate.partition(":")[0]


def _key(gate: str) -> str:
    return f"gates.{_KEYS[_kind(gate)]}" if _kind(gate) in _KEYS else "gates"


def decide(candidate: Evidence, reference: Evidence, rules: PromotionRules) -> Verdict:
    """Compare ``candidate`` with ``reference``. Both must have answered the same prompts and texts, in any order."""
    gates = rules.gates
    paired = _Pairs(candidate.evaluation, reference.evaluation, rules)
    gain = paired.gain("reward")
    num_paired = paired.num_with("reward")
    share = num_paired / paired.num_prompts if paired.num_prompts else 0.0
    findings = [
        *_at_least("paired_prompts", num_paired, gates.min_paired_prompts),
        *_at_least("scored_share", share, gates.min_scored_share),
        *_lower("reward", gain, gates.min_reward_gain, paired.means("reward")),
        *_lower("gold_reward", paired.gain("gold_reward"), _minus(gates.max_gold_loss), paired.means("gold_reward")),
        *_upper("perplexity", _perplexity_rise(candidate, reference, rules), gates.max_perplexity_rise),
        *(
            finding
            for n, limit in ((1, gates.min_distinct_1), (2, gates.min_distinct_2))
            for finding in _lower(f"distinct_{n}", *paired.distinct_factor(n, limit))
        ),
        *_upper("kl", _kl(candidate.evaluation, rules), gates.max_kl),
        *_upper("truncation", paired.added_truncation(), gates.max_truncation_rise),
        *_slices(paired, rules),
        *_safety(candidate, reference, rules),
    ]
    return Verdict(tuple(findings), paired.num_prompts, num_paired)


class _Pairs:
    """The prompts that both sides answered; a class, because every gate reads the same pairs."""

    def __init__(self, candidate: pa.Table, reference: pa.Table, rules: PromotionRules) -> None:
        ours, theirs = ({row["prompt_id"]: row for row in table.to_pylist()} for table in (candidate, reference))
        self.ids = sorted(ours.keys() & theirs.keys())
        self.num_prompts = len(ours.keys() | theirs.keys())
        self.ours, self.theirs = ([side[i] for i in self.ids] for side in (ours, theirs))
        self.rules = rules

    def gain(self, name: str, group: str | None = None) -> Interval:
        now, then = (
            {row["prompt_id"]: row[name] for row in side if group is None or row["group"] == group}
            for side in (self.ours, self.theirs)
        )
        return paired_gain(now, then, confidence=self.rules.confidence)

    def num_with(self, name: str) -> int:
        return sum(a[name] is not None and b[name] is not None for a, b in zip(self.ours, self.theirs, strict=True))

    def means(self, name: str) -> tuple[float | None, float | None]:
        ours, theirs = ([row[name] for row in side if row[name] is not None] for side in (self.ours, self.theirs))
        return (math.fsum(ours) / len(ours) if ours else None, math.fsum(theirs) / len(theirs) if theirs else None)

    def distinct_factor(
        self, n: int, limit: float | None
    ) -> tuple[Interval, float | None, tuple[float | None, float | None]]:
        texts = [[row["completion"] for row in side] for side in (self.ours, self.theirs)]
        ours, theirs = (distinct(side, n) for side in texts)
        if not ours or not theirs:
            return NOTHING, limit, (ours, theirs)
        pairs = zip(*(distinct_left_out(side, n) for side in texts), strict=True)
        left_out = [a / b for a, b in pairs if a is not None and b]
        return jackknife(ours / theirs, left_out, confidence=self.rules.confidence), limit, (ours, theirs)

    def added_truncation(self) -> Interval:
        cut = [[float(row["finish_reason"] == "length") for row in side] for side in (self.ours, self.theirs)]
        return _mean([a - b for a, b in zip(*cut, strict=True)], self.rules)

    def groups(self) -> dict[str, int]:
        names = [row["group"] for row in self.ours]
        return {name: names.count(name) for name in sorted(set(names))}


def _slices(paired: _Pairs, rules: PromotionRules) -> Iterator[Finding]:
    """Every prompt group, the worst first: a loss in one group is not offset by gains in others."""
    gates = rules.gates
    if gates.max_slice_loss is None:
        return
    found = []
    for group, count in paired.groups().items():
        name = f"slice:{group or 'all'}"
        gain = paired.gain("reward", group)
        if count < gates.min_slice_prompts:
            note = f"not a gate: group size {count}, gates.min_slice_prompts is {gates.min_slice_prompts}"
            found.append(Finding(name, gain.mean, gain.low, gain.high, "low >", -gates.max_slice_loss, True, note=note))
        else:
            note = f"rough interval: only {count} prompts" if count < HOLDS_FROM else ""
            found += _lower(name, gain, -gates.max_slice_loss, note=note)
    yield from sorted(found, key=lambda finding: math.inf if finding.low is None else finding.low)


def _safety(candidate: Evidence, reference: Evidence, rules: PromotionRules) -> Iterator[Finding]:
    """The gates of the safety suite; without a suite there are none.

    The unit is the prompt, because answers to one prompt are alike: more answers do not count as more prompts.
    """
    if candidate.safety is None:
        return
    gates, ours, theirs = rules.gates, _safe_shares(candidate.safety), _safe_shares(reference.safety)
    share = wilson(math.fsum(ours.values()), len(ours), confidence=rules.confidence)
    means = (share.mean, math.fsum(theirs.values()) / len(theirs) if theirs else None)
    yield from _lower(
        "safety", share, gates.min_safe_share, means, note=_safety_note(candidate.safety, len(ours), rules)
    )
    gain = paired_gain(ours, theirs, confidence=rules.confidence)
    yield from _lower("safety_gain", gain, _minus(gates.max_safety_loss), means)


def _safe_shares(safety: pa.Table | None) -> dict[str, float]:
    """prompt id → share of its answers that pass."""
    answers: dict[str, list[bool]] = {}
    if safety is not None:
        for prompt_id, ok in zip(safety["prompt_id"].to_pylist(), safety["passed"].to_pylist(), strict=True):
            answers.setdefault(prompt_id, []).append(ok)
    return {prompt_id: sum(passed) / len(passed) for prompt_id, passed in answers.items()}


def _safety_note(safety: pa.Table, num_prompts: int, rules: PromotionRules) -> str:
    """Which cases failed, or that the suite has too few prompts to pass at all."""
    most, least = wilson(num_prompts, num_prompts, confidence=rules.confidence).low, rules.gates.min_safe_share
    if most is not None and least is not None and most <= least:
        return f"{num_prompts} prompts show {most:.3f} at most: add prompts to the suite, or lower min_safe_share"
    passed = zip(safety["case"].to_pylist(), safety["passed"].to_pylist(), strict=True)
    cases = [case for case, ok in passed if not ok]
    failed = ", ".join(f"{cases.count(case)} in {case}" for case in sorted(set(cases)))
    return f"failed: {failed}" if failed else ""


def _perplexity_rise(candidate: Evidence, reference: Evidence, rules: PromotionRules) -> Interval:
    ours, theirs = (
        dict(zip(e.perplexity["text"].to_pylist(), e.perplexity["logprobs"].to_pylist(), strict=True))
        for e in (candidate, reference)
    )
    texts = sorted(text for text in ours.keys() & theirs.keys() if theirs[text])
    added = [-math.fsum(ours[text]) + math.fsum(theirs[text]) for text in texts]
    if not all(map(math.isfinite, added)):
        return Interval(None, None, None)
    log_rise = ratio_interval(added, [len(theirs[text]) for text in texts], confidence=rules.confidence)
    return Interval(*(None if v is None else math.expm1(min(v, 700.0)) for v in _bounds(log_rise)))


def _kl(evaluation: pa.Table, rules: PromotionRules) -> Interval:
    pairs = zip(evaluation["sampling_logprobs"].to_pylist(), evaluation["base_logprobs"].to_pylist(), strict=True)
    sums = [math.fsum(now) - math.fsum(then) for now, then in pairs]
    return _mean(sums, rules) if all(map(math.isfinite, sums)) else NOTHING


def _mean(values: Sequence[float], rules: PromotionRules) -> Interval:
    return mean_interval(values, confidence=rules.confidence)


def _bounds(interval: Interval) -> tuple[float | None, float | None, float | None]:
    return interval.mean, interval.low, interval.high


# -- one gate ------------------------------------------------------------------------------------

Means = tuple[float | None, float | None]


def _lower(
    gate: str, got: Interval, threshold: float | None, means: Means = (None, None), *, note: str = ""
) -> Iterator[Finding]:
    if threshold is not None:
        yield _finding(gate, got, "low >", threshold, got.low is not None and got.low > threshold, means, note)


def _upper(gate: str, got: Interval, threshold: float | None) -> Iterator[Finding]:
    if threshold is not None:
        passed = got.high is not None and got.high < threshold
        yield _finding(gate, got, "high <", threshold, passed, (None, None), "")


def _at_least(gate: str, got: float, threshold: float) -> Iterator[Finding]:
    yield Finding(gate, got, None, None, "at least", threshold, got >= threshold)


def _finding(gate: str, got: Interval, rule: str, threshold: float, passed: bool, means: Means, note: str) -> Finding:
    if got.low is None or got.high is None:
        note = "not measured: provide what the gate needs, or set its key to null"
    return Finding(gate, *_bounds(got), rule, threshold, passed, *means, note)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def figures(decision: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """gate → [figure, lower bound, upper bound] of a decision as the ledger has it."""
    return {f["gate"]: [f["value"], f["low"], f["high"]] for f in decision["findings"]}
