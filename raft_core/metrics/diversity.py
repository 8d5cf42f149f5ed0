"""How varied a set of completions is, by the paper's measures (arXiv:2304.06767, section 4).

A token is a lower-cased word between white space, punctuation attached: the same for every
tokenizer, so models compare, and a flood of one character shows as one word. An n-gram lies within
one completion. Distinct shares fall as the number of completions grows: compare equal numbers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Gate, Measured, Metric

if TYPE_CHECKING:
    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates

SEGMENT_WORDS = 100


def words(text: str) -> list[str]:
    """The tokens of a completion."""
    return text.lower().split()


def distinct(completions: Iterable[str], n: int) -> float | None:
    """Number of different n-grams / number of n-grams, over all completions; None without n-grams."""
    counts = _ngram_counts(completions, n)
    return len(counts) / counts.total() if counts else None


def distinct_left_out(completions: Sequence[str], n: int) -> list[float | None]:
    """``distinct`` without each completion in turn: what a jackknife needs, in one pass."""
    own = [Counter(_ngrams(words(text), n)) for text in completions]
    counts = _ngram_counts(completions, n)
    total = counts.total()
    return [
        (len(counts) - sum(counts[gram] == count for gram, count in mine.items())) / left
        if (left := total - mine.total())
        else None
        for mine in own
    ]


def unique(completions: Iterable[str], n: int) -> int:
    """Number of n-grams that occur exactly once over all completions."""
    return sum(count == 1 for count in _ngram_counts(completions, n).values())


def msttr(completions: Iterable[str], segment_words: int = SEGMENT_WORDS) -> float | None:
    """Mean segmental type-token ratio (MSTTR-100).

    All completions one after the other are cut into segments of ``segment_words`` words; the mean
    over segments of different words / words. A last, shorter segment is left out; None without a
    whole one. Unlike ``distinct`` it does not depend on the number of completions.
    """
    stream = [word for text in completions for word in words(text)]
    ratios = [
        len(set(stream[start : start + segment_words])) / segment_words
        for start in range(0, len(stream) - segment_words + 1, segment_words)
    ]
    return sum(ratios) / len(ratios) if ratios else None


def _ngram_counts(completions: Iterable[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(gram for text in completions for gram in _ngrams(words(text), n))


def _ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)


_REMEDY = "raise sampling.temperature, or lower finetuning.learning_rate or iterations"


class Diversity(Metric):
    """``distinct_N``, ``unique_N`` and ``msttr_100`` of the held-out completions."""

    type: Literal["diversity"] = "diversity"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            "distinct_1",
            "distinct-1",
            "share of different words; falls when completions become alike",
            column="distinct-1",
            short="dist-1",
            better="higher",
            rank=5,
        ),
        Figure(
            "distinct_2",
            "distinct-2",
            "share of different word pairs; falls when completions become alike",
            column="distinct-2",
            short="dist-2",
            better="higher",
            rank=4,
            headline=True,
        ),
        Figure("unique_1", "words that occur once", decimals=0, better="higher"),
        Figure("unique_2", "word pairs that occur once", decimals=0, better="higher"),
        Figure(
            "msttr_100",
            "MSTTR-100 (variety of words)",
            "mean share of different words in stretches of 100",
            better="higher",
        ),
    )
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate("min_distinct_1", "distinct_1", "factor", _REMEDY),
        Gate("min_distinct_2", "distinct_2", "factor", _REMEDY),
    )

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        completions = measured.evaluation["completion"].to_pylist()
        return {
            "distinct_1": distinct(completions, 1),
            "distinct_2": distinct(completions, 2),
            "unique_1": unique(completions, 1),
            "unique_2": unique(completions, 2),
            "msttr_100": msttr(completions),
        }

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """Ratio to the reference's share of different n-grams: lower bound (jackknife over prompts) > the limit."""
        from raft_core.evaluation.statistics import NOTHING, jackknife
        from raft_core.promotion.findings import lower

        texts = [[row["completion"] for row in side] for side in (pairs.ours, pairs.theirs)]
        for n, limit in ((1, gates.min_distinct_1), (2, gates.min_distinct_2)):
            ours, theirs = (distinct(side, n) for side in texts)
            found = NOTHING
            if limit is not None and ours and theirs:
                both = zip(*(distinct_left_out(side, n) for side in texts), strict=True)
                left_out = [a / b for a, b in both if a is not None and b]
                found = jackknife(ours / theirs, left_out, confidence=pairs.confidence)
            what, key = "ratio to the reference", f"min_distinct_{n}"
            yield from lower(f"distinct_{n}", found, limit, (ours, theirs), figure=what, key=key)
