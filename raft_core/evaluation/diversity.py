"""How varied a set of completions is, by the paper's measures (arXiv:2304.06767, section 4).

A token is a lower-cased word between white space, punctuation attached: the same for every
tokenizer, so models compare, and a flood of one character shows as one word. An n-gram lies within
one completion. Distinct shares fall as the number of completions grows: compare equal numbers.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

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


def mean_length(completions: Sequence[str]) -> float | None:
    """Mean number of words a completion; None without completions."""
    return sum(len(words(text)) for text in completions) / len(completions) if completions else None


def _ngram_counts(completions: Iterable[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(gram for text in completions for gram in _ngrams(words(text), n))


def _ngrams(tokens: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return zip(*(tokens[i:] for i in range(n)), strict=False)
