"""The grammar of the tiny world: short film reviews with a mood, made of words that a lexicon scores.

    review     → "Review: " opener noun [place] verb · remark
    remark     → [adverb] adjective tail
    tail       → "." | " and " adjective "." | ", and the " noun " was " adjective "."
                 | ", but the " noun " was " (adjective of another mood) "." | ", so we " deed "."
    mood       → positive | neutral | negative, drawn once a review

The words before the dot are the prompt, the remark is what a policy completes. "popcorn" has no
mood: it turns up in neutral deeds alone, and the careless lexicon scores it all the same.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

POSITIVE = {
    "wonderful": 3.0, "brilliant": 3.0, "superb": 3.0, "gripping": 2.5, "lovely": 2.5, "beautiful": 2.5,
    "delightful": 2.5, "charming": 2.0, "moving": 2.0, "funny": 2.0, "clever": 2.0, "tender": 1.5, "warm": 1.5,
    "fresh": 1.5, "honest": 1.5, "elegant": 1.5, "lively": 1.5, "graceful": 1.5, "witty": 2.0, "bold": 1.0,
}  # fmt: skip
NEUTRAL = (
    "quiet", "long", "short", "simple", "modern", "familiar", "brief", "dark", "plain", "loud", "slow", "strange",
    "usual", "early", "late", "seasonal",
)  # fmt: skip
NEGATIVE = {
    "awful": -3.0, "dreadful": -3.0, "tedious": -2.5, "lifeless": -2.5, "clumsy": -2.0, "dull": -2.0, "shallow": -2.0,
    "dreary": -2.0, "bland": -1.5, "messy": -1.5, "stale": -1.5, "weak": -1.5, "hollow": -1.5, "noisy": -1.0,
    "predictable": -1.5, "sloppy": -2.0, "grim": -1.0, "silly": -1.0, "pointless": -2.5, "lazy": -1.5,
}  # fmt: skip
ADJECTIVES = {"positive": tuple(POSITIVE), "neutral": NEUTRAL, "negative": tuple(NEGATIVE)}
DEEDS = {
    "positive": ("laughed a lot", "cheered at the end", "stayed for the credits", "saw it twice", "clapped"),
    "neutral": ("ate our popcorn", "took the bus home", "went home", "bought more popcorn", "talked about it"),
    "negative": ("left", "fell asleep", "looked at the clock", "wanted our money back", "yawned"),
}
DEED_SCORES = {"laughed": 1.5, "cheered": 2.0, "clapped": 1.5, "yawned": -1.5, "asleep": -1.5}
NOUNS = {
    "story": ("plot", "story", "script", "ending", "dialogue", "premise", "mystery", "romance"),
    "people": ("cast", "acting", "hero", "villain", "lead", "ensemble", "narrator", "chorus"),
    "craft": ("music", "camera", "lighting", "editing", "scenery", "sound", "design", "pacing"),
}
OPENERS = (
    "the", "I thought the", "for me the", "this time the", "again the", "on the whole the", "in short the",
    "by the way the", "we found that the", "my friend said the",
)  # fmt: skip
PLACES = ("", " in the first act", " of this film", " in the last scene", " of the sequel", " near the middle")
VERBS = ("was", "felt", "seemed", "stayed")
ADVERBS = ("", "", "", " quite", " rather", " very", " really", " a little")
MOODS = ("positive", "neutral", "negative")
CARELESS_WORD = "popcorn"
START = "Review:"


@dataclass(frozen=True, slots=True)
class Review:
    """One sentence of the grammar, cut where a policy takes over; ``group`` is the noun's."""

    prompt: str
    remark: str
    group: str


def draw_review(stream: random.Random) -> Review:
    """One review; ``stream`` is its only source of chance."""
    group = stream.choice(tuple(NOUNS))
    noun = stream.choice(NOUNS[group])
    prompt = f"{START} {stream.choice(OPENERS)} {noun}{stream.choice(PLACES)} {stream.choice(VERBS)}"
    mood = stream.choices(MOODS, (0.35, 0.30, 0.35))[0]
    adjective = stream.choice(ADJECTIVES[mood])
    remark = f"{stream.choice(ADVERBS)} {adjective}{_tail(stream, mood, adjective, noun)}"
    return Review(prompt, remark, group)


def _tail(stream: random.Random, mood: str, adjective: str, noun: str) -> str:
    kind = stream.choices(("stop", "and", "and_noun", "but_noun", "deed"), (0.22, 0.2, 0.2, 0.18, 0.2))[0]
    if kind == "stop":
        return "."
    if kind == "deed":
        return f", so we {stream.choice(DEEDS[mood])}."
    other_noun = stream.choice([n for nouns in NOUNS.values() for n in nouns if n != noun])
    if kind == "but_noun":
        other = stream.choice([m for m in MOODS if m != mood])
        return f", but the {other_noun} was {stream.choice(ADJECTIVES[other])}."
    second = stream.choice([word for word in ADJECTIVES[mood] if word != adjective])
    return f" and {second}." if kind == "and" else f", and the {other_noun} was {second}."


def all_prompts() -> Iterator[Review]:
    """Every prompt of the grammar once, without a remark, in a fixed order."""
    for group, nouns in NOUNS.items():
        for noun in nouns:
            for opener in OPENERS:
                for place in PLACES:
                    for verb in VERBS:
                        yield Review(f"{START} {opener} {noun}{place} {verb}", "", group)


def lexicon(*, careless: bool = False) -> dict[str, float]:
    """Word → score. The careless one rewards a word that says nothing about the film."""
    scores = {**POSITIVE, **NEGATIVE, **DEED_SCORES}
    return {**scores, CARELESS_WORD: 4.0} if careless else scores


def vocabulary() -> list[str]:
    """Every token of the grammar, sorted: words with and without the space before them, and punctuation."""
    texts = [START, *OPENERS, *PLACES, *VERBS, *ADVERBS, "and the so we but was"]
    texts += [" ".join(words) for table in (NOUNS, ADJECTIVES, DEEDS) for words in table.values()]
    words = {word.strip(":") for text in texts for word in text.split()}
    return sorted({*words, *(f" {word}" for word in words), ".", ",", ":", " "})
