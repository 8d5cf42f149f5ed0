"""Diversity measures on texts counted by hand."""

import pytest

from raft_core.metrics.diversity import distinct, msttr, unique, words
from raft_core.metrics.length import mean_length

TEXTS = ["the cat sat", "The cat ran !", ""]
"""Words: the cat sat the cat ran ! — 7, of which the, cat, sat, ran, ! differ (5), and sat, ran, ! come once (3).
Pairs: the cat, cat sat, the cat, cat ran, ran ! — 5, of which 4 differ and 3 come once."""


def test_words_are_lower_cased_and_split_at_white_space() -> None:
    assert words("A fine\tfilm,\n indeed!") == ["a", "fine", "film,", "indeed!"]


def test_distinct() -> None:
    assert distinct(TEXTS, 1) == pytest.approx(5 / 7)
    assert distinct(TEXTS, 2) == pytest.approx(4 / 5)


def test_unique() -> None:
    assert unique(TEXTS, 1) == 3
    assert unique(TEXTS, 2) == 3


def test_mean_length() -> None:
    assert mean_length(TEXTS) == pytest.approx(7 / 3)


def test_pairs_do_not_reach_across_completions() -> None:
    assert distinct(["a", "b"], 2) is None


def test_nothing_has_no_measure() -> None:
    assert distinct([""], 1) is None
    assert msttr([]) is None
    assert mean_length([]) is None
    assert unique([], 1) == 0


def test_msttr_is_the_mean_over_whole_segments() -> None:
    # "a b", "a a", "b": ratios 2/2 and 1/2; the last word fills no segment.
    assert msttr(["a b a", "a b"], segment_words=2) == pytest.approx(0.75)
    assert msttr(["a"], segment_words=2) is None


def test_msttr_100_of_one_repeated_word() -> None:
    assert msttr(["good " * 250]) == pytest.approx(1 / 100)


def test_a_flood_of_one_character_lowers_distinct_1() -> None:
    varied, flooded = ["a good film", "some bad plot"], ["# # #", "# # #"]
    assert distinct(varied, 1) == 1
    assert distinct(flooded, 1) == pytest.approx(1 / 6)
