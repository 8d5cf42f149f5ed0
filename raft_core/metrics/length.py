"""How long completions are, and how many are cut off: a reward that pays for length shows here."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Gate, Measured, Metric, mean
from raft_core.metrics.diversity import words

if TYPE_CHECKING:
    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates


def mean_length(completions: Sequence[str]) -> float | None:
    """Mean number of words per completion; None without completions."""
    return sum(len(words(text)) for text in completions) / len(completions) if completions else None


class Length(Metric):
    """``mean_length`` (words), and ``truncation``: the share of completions cut by ``sampling.max_new_tokens``."""

    type: Literal["length"] = "length"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("mean_length", "mean length, words", decimals=1),
        Figure(
            "truncation",
            "cut at the length limit",
            "share of completions that did not end by themselves",
            column="truncated",
            short="cut",
            better="lower",
            percent=True,
            rank=7,
            headline=True,
        ),
    )
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate(
            "max_truncation_rise",
            "truncation",
            "added",
            "raise sampling.max_new_tokens, or choose a reward that does not favor long completions",
        ),
        Gate("max_length_factor", "mean_length", "either_way", "choose a reward that does not depend on length"),
    )

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        reasons = measured.evaluation["finish_reason"].to_pylist()
        return {
            "mean_length": mean_length(measured.evaluation["completion"].to_pylist()),
            "truncation": mean([float(reason == "length") for reason in reasons]),
        }

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """Rise in the share of completions cut off by length: upper bound < ``max_truncation_rise``."""
        from raft_core.promotion.findings import upper

        cut = [[float(row["finish_reason"] == "length") for row in side] for side in (pairs.ours, pairs.theirs)]
        found = pairs.mean([a - b for a, b in zip(*cut, strict=True)])
        what, key = "rise in the share cut off by length", "max_truncation_rise"
        yield from upper("truncation", found, gates.max_truncation_rise, figure=what, key=key)
