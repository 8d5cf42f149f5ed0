"""A reward that looks words up in a list: VADER's compound sentiment, or the mean of your own word scores.

VADER (Hutto and Gilbert, 2014): rules over rated words, in [−1, 1]; a text without rated words scores 0.
Your own file: r(text) = Σ score(word) / number of words, where unknown words count 0; an empty text scores 0.
Words are runs of letters and digits (an apostrophe may join two), compared without case.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from raft_core.errors import InputError
from raft_core.files.artifacts import file_digest, json_digest
from raft_core.references import resolve
from raft_core.rewards.base import RewardConfig, ScoredText, reward_identity, texts
from raft_core.types import Prompt

VADER = "the lexicon of VADER"
_WORD = re.compile(r"\w+(?:['’]\w+)*")


class LexiconRewardConfig(RewardConfig):
    """A score by words: how positive a text is by the VADER lexicon (−1 to 1), or the mean of your own word scores.

    For example `{type: lexicon, file: words.tsv, text: completion}`, where a line of words.tsv is a word, a tab and a
    number. A text scores the mean over all its words; unknown words count 0.
    """

    type: Literal["lexicon"] = "lexicon"
    file: str | None = Field(None, description="UTF-8 file with lines of `WORD<tab>SCORE`; null: the VADER lexicon")
    text: ScoredText = "prompt_and_completion"

    @property
    def reference(self) -> str:
        """See ``RewardConfig.reference``."""
        return self.file or VADER

    def load(self, *, weights: bool = True) -> "LexiconReward | VaderReward":
        """See ``RewardConfig.load``."""
        return load(self)


@dataclass(frozen=True, slots=True)
class LexiconReward:
    """Mean score of a text's words."""

    identity: str
    sources: Mapping[str, str]
    scores: dict[str, float]
    text: ScoredText

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One mean per sample."""
        return [self._mean(text) for text in texts(self.text, prompts, completions)]

    def _mean(self, text: str) -> float:
        words = _WORD.findall(text.casefold())
        return sum(self.scores.get(word, 0.0) for word in words) / max(1, len(words))


@dataclass(frozen=True, slots=True)
class VaderReward:
    """VADER's compound score of a text."""

    identity: str
    sources: Mapping[str, str]
    analyzer: Any
    text: ScoredText

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One compound score in [−1, 1] per sample."""
        return [self.analyzer.polarity_scores(text)["compound"] for text in texts(self.text, prompts, completions)]


def load(config: LexiconRewardConfig) -> LexiconReward | VaderReward:
    """The lexicon in ``config.file``, or VADER. Raises InputError that names an invalid line."""
    if config.file is None:
        return _vader(config)
    path = resolve(config.file)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the lexicon file cannot be read: {path}",
            got=error,
            expected="a UTF-8 file with lines of WORD<tab>SCORE; relative paths start at the current directory",
            hint="correct `file` of the reward",
        ) from None
    digest = file_digest(path)
    return LexiconReward(reward_identity(config, digest), {config.file: digest}, _read(path, lines), config.text)


def _vader(config: LexiconRewardConfig) -> VaderReward:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    spec = find_spec("vaderSentiment.vaderSentiment")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin)
    files = [source, source.with_name("vader_lexicon.txt"), source.with_name("emoji_utf8_lexicon.txt")]
    digest = json_digest([file_digest(file) for file in files])
    return VaderReward(
        reward_identity(config, digest), {"vaderSentiment": digest}, SentimentIntensityAnalyzer(), config.text
    )


def _read(path: Path, lines: Sequence[str]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        word, score = _entry(path, number, line)
        if word in scores:
            raise InputError(
                f"{path}, line {number}: the word {word!r} occurs twice",
                got=f"the scores {scores[word]:g} and {score:g}",
                expected="one score per word (upper and lower case are the same)",
                hint="remove one of the two lines",
            )
        scores[word] = score
    if not scores:
        raise InputError(
            f"the lexicon file contains no words: {path}",
            expected="lines of WORD<tab>SCORE",
            hint="add at least one line, or remove `file` of the reward to use the VADER lexicon",
        )
    return scores


def _entry(path: Path, number: int, line: str) -> tuple[str, float]:
    word, _tab, score_text = (part.strip() for part in line.partition("\t"))
    word = word.casefold()
    try:
        score = float(score_text)
    except ValueError:
        score = float("nan")
    if not isfinite(score) or not _WORD.fullmatch(word):
        raise InputError(
            f"{path}, line {number} is not a word and a score",
            got=repr(line[:80]),
            expected="one WORD (letters, digits, apostrophes), a tab, a finite number",
            hint="separate the two with a tab character, and write a number such as -1.5",
        )
    return word, score
