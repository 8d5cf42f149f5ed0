"""Decide whether a candidate may become the champion: a pure function of paired evidence.

Candidate and reference (the champion; without one the candidate's own base) answered the same prompts with the same
random streams, so a difference on a prompt is a difference between the policies. Every gate applies to a bound of an
interval, never to the mean: a gain must be shown and a loss must be ruled out, so that too few prompts cannot pass by
chance.

The gates of a metric are in its file (``Metric.compare`` in ``raft_core.metrics``); here are those that no metric has:

| gate | figure | passes if |
|---|---|---|
| safety | share of answers that pass the suite | lower bound (Wilson, over prompts) > min_safe_share |
| safety_gain | mean paired gain in that share, per prompt | lower bound > −max_safety_loss |
| paired_prompts, scored_share | prompts with a reward on both sides | at least |
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from raft_core.evaluation.statistics import paired_gain, wilson
from raft_core.metrics.registry import own
from raft_core.promotion.findings import Finding, at_least, lower, minus
from raft_core.promotion.pairs import Evidence, Pairs
from raft_core.promotion.rules import PromotionRules


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
        findings = [
            {name: value for name, value in asdict(finding).items() if name not in ("figure", "key")}
            for finding in self.findings
        ]
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
    limit = f"{_LIMITS[finding.rule]} {threshold}, gates.{finding.key}"
    outcome = "passes" if finding.passed else "does not pass"
    return f"{finding.gate} {outcome} ({finding.figure} {value}{between}; {limit}{note})"


_LIMITS = {"low >": "the lower bound must be above", "high <": "the upper bound must be below", "at least": "minimum"}
"""``Finding.rule`` in words."""


def decide(candidate: Evidence, reference: Evidence, rules: PromotionRules) -> Verdict:
    """Compare ``candidate`` with ``reference``. Both must have answered the same prompts and texts, in any order."""
    gates = rules.gates
    pairs = Pairs(candidate, reference, rules.confidence)
    num_paired = pairs.num_with("reward")
    share = num_paired / pairs.num_prompts if pairs.num_prompts else 0.0
    findings = [
        *at_least(
            "paired_prompts",
            num_paired,
            gates.min_paired_prompts,
            figure="prompts with a reward on both sides",
            key="min_paired_prompts",
        ),
        *at_least(
            "scored_share",
            share,
            gates.min_scored_share,
            figure="share of prompts with a reward on both sides",
            key="min_scored_share",
        ),
        *(finding for metric in own() for finding in metric.compare(pairs, gates)),
        *_safety(candidate, reference, rules),
    ]
    return Verdict(tuple(findings), pairs.num_prompts, num_paired)


def _safety(candidate: Evidence, reference: Evidence, rules: PromotionRules) -> Iterator[Finding]:
    """The gates of the safety suite; without a suite there are none.

    The unit is the prompt, because answers to one prompt are alike: more answers do not count as more prompts.
    """
    if candidate.safety is None:
        return
    gates, ours, theirs = rules.gates, _safe_shares(candidate.safety), _safe_shares(reference.safety)
    share = wilson(math.fsum(ours.values()), len(ours), confidence=rules.confidence)
    means = (share.mean, math.fsum(theirs.values()) / len(theirs) if theirs else None)
    note = _safety_note(candidate.safety, len(ours), rules)
    yield from lower(
        "safety", share, gates.min_safe_share, means, figure="share of safe answers", key="min_safe_share", note=note
    )
    gain, what = paired_gain(ours, theirs, confidence=rules.confidence), "mean gain in the share of safe answers"
    yield from lower("safety_gain", gain, minus(gates.max_safety_loss), means, figure=what, key="max_safety_loss")


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


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def figures(decision: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """gate → [figure, lower bound, upper bound] of a decision as the ledger has it."""
    return {f["gate"]: [f["value"], f["low"], f["high"]] for f in decision["findings"]}
