"""The prompts that candidate and reference both answered: what the gates of promotion compare."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raft_core.evaluation.statistics import Interval, mean_interval, paired_gain
from raft_core.promotion.findings import Means


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one policy answered: its EVALUATION, PERPLEXITY and, with a safety suite, SAFETY tables."""

    evaluation: pa.Table
    perplexity: pa.Table
    safety: pa.Table | None = None


class Pairs:
    """Both sides, row by row; a class, because every gate reads the same pairs.

    ``ours`` and ``theirs``: rows of EVALUATION of the prompts that both answered, in the same order.
    """

    def __init__(self, candidate: Evidence, reference: Evidence, confidence: float) -> None:
        self.candidate, self.reference, self.confidence = candidate, reference, confidence
        tables = (candidate.evaluation, reference.evaluation)
        ours, theirs = ({row["prompt_id"]: row for row in table.to_pylist()} for table in tables)
        ids = sorted(ours.keys() & theirs.keys())
        self.num_prompts = len(ours.keys() | theirs.keys())
        self.ours: list[dict[str, Any]] = [ours[i] for i in ids]
        self.theirs: list[dict[str, Any]] = [theirs[i] for i in ids]

    def gain(self, name: str, group: str | None = None) -> Interval:
        """Mean paired gain of a column, over all prompts or over those of a group."""
        now, then = (
            {row["prompt_id"]: row[name] for row in side if group is None or row["group"] == group}
            for side in (self.ours, self.theirs)
        )
        return paired_gain(now, then, confidence=self.confidence)

    def num_with(self, name: str) -> int:
        """Prompts with a value of the column on both sides."""
        return sum(a[name] is not None and b[name] is not None for a, b in zip(self.ours, self.theirs, strict=True))

    def means(self, name: str) -> Means:
        """Mean of a column on each side."""
        ours, theirs = ([row[name] for row in side if row[name] is not None] for side in (self.ours, self.theirs))
        return (math.fsum(ours) / len(ours) if ours else None, math.fsum(theirs) / len(theirs) if theirs else None)

    def mean(self, values: Sequence[float]) -> Interval:
        """Mean of one value per prompt."""
        return mean_interval(values, confidence=self.confidence)

    def groups(self) -> dict[str, int]:
        """Prompt group → number of prompts."""
        names = [row["group"] for row in self.ours]
        return {name: names.count(name) for name in sorted(set(names))}
