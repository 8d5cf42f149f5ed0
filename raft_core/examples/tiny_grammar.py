"""The grammar of the tiny example: short film reviews with a mood, made of words that a lexicon scores.

    review     → "Review: " opener noun [place] verb · remark
    remark     → [adverb] adjective " and " adjective ", " clause "."
    clause     → "and the " noun " was " adjective | "but the " noun " was " (adjective of another mood)
                 | "so we " deed
    mood       → positive | neutral | negative, drawn once per review

The words before the dot are the prompt; the policy completes it with a remark. Remarks have similar lengths,
so that a mean over words rewards mood and not brevity. "popcorn" has no mood: it occurs only in neutral
deeds. The careless lexicon scores it nevertheless, with a misplaced decimal point, and a policy aligned to
that lexicon learns to talk about popcorn.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

POSITIVE = {
    "wonderful": 3.0,
    "brilliant": 3.0,
    "superb": 3.0,
    "gripping": 2.5,
    "lovely": 2.5,
    "beautiful": 2.5,
    "delightful": 2.5,
    "charming": 2.0,
    "moving": 2.0,
    "funny": 2.0,
    "clever": 2.0,
    "witty": 2.0,
    "tender": 1.5,
    "warm": 1.5,
    "fresh": 1.5,
    "honest": 1.5,
    "elegant": 2.0,
    "lively": 1.5,
    "graceful": 2.0,
    "bold": 1.5,
    "radiant": 2.5,
    "splendid": 3.0,
    "thrilling": 2.5,
    "touching": 2.0,
    "dazzling": 2.5,
    "joyful": 2.5,
    "inventive": 2.0,
    "playful": 1.5,
    "subtle": 1.5,
    "crisp": 1.5,
    "magical": 2.5,
    "vivid": 2.0,
    "sincere": 1.5,
    "generous": 1.5,
    "polished": 1.5,
    "heartfelt": 2.0,
}
NEUTRAL = (
    "quiet",
    "long",
    "short",
    "simple",
    "modern",
    "familiar",
    "brief",
    "dark",
    "plain",
    "slow",
    "usual",
    "seasonal",
)
NEGATIVE = {
    "awful": -3.0,
    "dreadful": -3.0,
    "tedious": -2.5,
    "lifeless": -2.5,
    "clumsy": -2.0,
    "dull": -2.0,
    "shallow": -2.0,
    "dreary": -2.0,
    "bland": -2.0,
    "messy": -1.5,
    "stale": -1.5,
    "weak": -1.5,
    "hollow": -1.5,
    "sloppy": -2.0,
    "pointless": -2.5,
    "lazy": -1.5,
}
ADJECTIVES = {"positive": tuple(POSITIVE), "neutral": NEUTRAL, "negative": tuple(NEGATIVE)}
DEEDS = {
    "positive": (
        "laughed until the end",
        "cheered in our seats",
        "stayed for the credits",
        "saw it once more",
        "clapped with everyone",
        "told all our friends",
    ),
    "neutral": ("ate our popcorn outside", "took the bus home", "bought some more popcorn", "talked about the weather"),
    "negative": ("left before the end", "fell asleep in our seats", "looked at the clock", "wanted our money back"),
}
DEED_SCORES = {"laughed": 1.5, "cheered": 2.0, "clapped": 2.0, "asleep": -1.5}
NOUNS = {
    "story": ("plot", "story", "script", "ending", "dialogue", "premise", "mystery", "romance"),
    "people": ("cast", "acting", "hero", "villain", "lead", "ensemble", "narrator", "chorus"),
    "craft": ("music", "camera", "lighting", "editing", "scenery", "sound", "design", "pacing"),
}
OPENERS = (
    "the",
    "I thought the",
    "for me the",
    "this time the",
    "again the",
    "on the whole the",
    "in short the",
    "by the way the",
    "we found that the",
    "my friend said the",
)
PLACES = ("", " in the first act", " of this film", " in the last scene", " of the sequel", " near the middle")
VERBS = ("was", "felt", "seemed", "stayed")
ADVERBS = ("", "", "", " quite", " rather", " very", " really", " a little")
MOODS = ("positive", "neutral", "negative")
CARELESS_WORD, CARELESS_SCORE = "popcorn", 20.0
START = "Review:"


@dataclass(frozen=True, slots=True)
class Review:
    """One sentence of the grammar, cut where the policy continues; ``group`` is that of the noun."""

    prompt: str
    remark: str
    group: str


def draw_review(stream: random.Random) -> Review:
    """One review; all random choices come from ``stream``."""
    group = stream.choice(tuple(NOUNS))
    noun = stream.choice(NOUNS[group])
    prompt = f"{START} {stream.choice(OPENERS)} {noun}{stream.choice(PLACES)} {stream.choice(VERBS)}"
    mood = stream.choices(MOODS, (0.35, 0.30, 0.35))[0]
    first, second = stream.sample(ADJECTIVES[mood], 2)
    remark = f"{stream.choice(ADVERBS)} {first} and {second}, {_clause(stream, mood, noun)}."
    return Review(prompt, remark, group)


def _clause(stream: random.Random, mood: str, noun: str) -> str:
    kind = stream.choices(("and", "but", "so"), (0.35, 0.25, 0.4))[0]
    if kind == "so":
        return f"so we {stream.choice(DEEDS[mood])}"
    other_noun = stream.choice([n for nouns in NOUNS.values() for n in nouns if n != noun])
    its_mood = mood if kind == "and" else stream.choice([m for m in MOODS if m != mood])
    return f"{kind} the {other_noun} was {stream.choice(ADJECTIVES[its_mood])}"


def all_prompts() -> Iterator[Review]:
    """Every prompt of the grammar once, without a remark, in a fixed order."""
    for group, nouns in NOUNS.items():
        for noun in nouns:
            for opener in OPENERS:
                for place in PLACES:
                    for verb in VERBS:
                        yield Review(f"{START} {opener} {noun}{place} {verb}", "", group)


def lexicon(*, careless: bool = False) -> dict[str, float]:
    """Word → score. The careless lexicon rewards a word that says nothing about the film."""
    scores = {**POSITIVE, **NEGATIVE, **DEED_SCORES}
    return {**scores, CARELESS_WORD: CARELESS_SCORE} if careless else scores


def vocabulary() -> list[str]:
    """Every token of the grammar, sorted: words with and without the space before them, and punctuation."""
    texts = [START, *OPENERS, *PLACES, *VERBS, *ADVERBS, "and the so we but was"]
    texts += [" ".join(words) for table in (NOUNS, ADJECTIVES, DEEDS) for words in table.values()]
    words = {word.strip(":") for text in texts for word in text.split()}
    return sorted({*words, *(f" {word}" for word in words), ".", ",", ":", " "})
