"""Lexicon rewards: hand-computed means, VADER's own numbers, and files that cannot be read."""

from pathlib import Path

import pytest

from raft_core.errors import InputError
from raft_core.rewards.lexicon import LexiconRewardConfig, load
from raft_core.types import Prompt

PROMPTS = [Prompt.of("Good film: "), Prompt.of("")]


def lexicon(tmp_path: Path, content: str | bytes, **settings: object) -> LexiconRewardConfig:
    path = tmp_path / "words.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return LexiconRewardConfig(file=str(path), **settings)


def test_mean_of_the_words(tmp_path: Path) -> None:
    reward = load(lexicon(tmp_path, "good\t2\nBAD\t-1.5\n\nisn't\t-1\n", text="completion"))
    # "a good, GOOD film": (0 + 2 + 2 + 0) / 4; "it isn't bad": (0 − 1 − 1.5) / 3
    assert reward(PROMPTS, ["a good, GOOD film", "it isn't bad"]) == [1.0, pytest.approx(-2.5 / 3)]
    assert reward(PROMPTS, ["", "?!"]) == [0.0, 0.0]


def test_the_prompt_counts_when_asked_for(tmp_path: Path) -> None:
    config = lexicon(tmp_path, "good\t2\n")
    assert load(config)(PROMPTS, ["good", "good"]) == [pytest.approx(4 / 3), 2.0]


def test_identity_follows_bytes_and_settings(tmp_path: Path) -> None:
    first = load(lexicon(tmp_path, "good\t2\n")).identity
    assert load(lexicon(tmp_path, "good\t2\n", weight=3.0, name="x")).identity == first
    assert load(lexicon(tmp_path, "good\t3\n")).identity != first
    assert load(lexicon(tmp_path, "good\t2\n", text="completion")).identity != first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("good 2\n", "line 1"),
        ("fine\t1\ngood\tvery\n", "line 2"),
        ("good\tnan\n", "finite number"),
        ("very good\t1\n", "one WORD"),
        (":)\t1\n", "one WORD"),
        ("good\t1\nGood\t2\n", "line 2.*'good'(?s:.*)1 and 2"),
        ("", "WORD<tab>SCORE"),
        (b"good\t\xff\n", "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(InputError, match=told) as caught:
        load(lexicon(tmp_path, text))
    assert str(tmp_path) in caught.value.what
    assert caught.value.hint


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"words\.tsv"):
        load(LexiconRewardConfig(file=str(tmp_path / "words.tsv")))


def test_vader() -> None:
    reward = load(LexiconRewardConfig(text="completion"))
    # "good" is rated 1.9: 1.9 / sqrt(1.9² + 15) = 0.4404; negated, × −0.74: −0.3412
    assert reward(PROMPTS, ["good", "not good"]) == [0.4404, -0.3412]
    assert reward(PROMPTS, ["", "the"]) == [0.0, 0.0]
    assert reward.identity == load(LexiconRewardConfig(text="completion")).identity
