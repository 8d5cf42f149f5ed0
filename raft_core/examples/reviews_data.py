"""The splits of the reviews example, disjoint by sentence; prompts are distinct over all splits.

| split | rows | what it is for |
|---|---|---|
| prompts.train, .held_out, .promotion | 640, 256, 256 | the first 4-6 words of a sentence, after "Movie review: " |
| sft | 480 | the warm start: whole sentences, half of them after "Movie review:" |
| perplexity | 256 | whole sentences |
| ratings.reward, ratings.held_out | 6000, 1000 | rated movie sentences for the reward model, and to judge it |
| ratings.gold | all others | the other movie sentences, products, editorials: for the gold reward alone |
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from raft_core.examples.json_lines import write_lines
from raft_core.examples.packages import PACKAGES
from raft_core.examples.reviews_sentences import Sentence, is_fit, read_sentences
from raft_core.examples.stages import Built, Progress
from raft_core.files.artifacts import write_bytes

START = "Movie review: "
"""Start of every prompt, and of every rated text, because completions are scored with their prompts."""
PROMPT_SPLITS = {"train": 640, "held_out": 256, "promotion": 256}
NUM_SFT, NUM_PERPLEXITY, NUM_REWARD_HELD_OUT, NUM_REWARD = 480, 256, 1000, 6000
MIN_PROMPT_WORDS, MAX_PROMPT_WORDS = 4, 6


def build_data(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """Write every split as JSON lines (the perplexity text as plain lines)."""
    domains = read_sentences(inputs["packages"] / PACKAGES["ratings"].file)
    splits = split_sentences(domains)
    for name in PROMPT_SPLITS:
        write_lines(out / f"prompts.{name}.jsonl", map(_prompt_row, splits[f"prompts.{name}"]))
    write_lines(out / "sft.jsonl", _sft_rows(splits["sft"]))
    for name in ("ratings.reward", "ratings.held_out", "ratings.gold"):
        write_lines(out / f"{name}.jsonl", map(_rating_row, splits[name]))
    write_bytes(out / "perplexity.txt", "".join(f"{s.text}\n" for s in splits["perplexity"]).encode())
    return Built(measured={name: len(rows) for name, rows in splits.items()})


def split_sentences(domains: Mapping[str, list[Sentence]]) -> dict[str, list[Sentence]]:
    """Distribute the shuffled sentences; each goes to exactly one split."""
    fit = [sentence for sentence in domains["movies"] if is_fit(sentence)]
    first_with_its_prompt = {prompt_of(sentence).lower(): sentence for sentence in reversed(fit)}
    fit = [sentence for sentence in fit if first_with_its_prompt[prompt_of(sentence).lower()] is sentence]
    left = iter(fit)
    splits = {f"prompts.{name}": list(islice(left, count)) for name, count in PROMPT_SPLITS.items()}
    splits["sft"] = list(islice(left, NUM_SFT))
    splits["perplexity"] = list(islice(left, NUM_PERPLEXITY))
    taken = {sentence.source for rows in splits.values() for sentence in rows}
    rest = [sentence for sentence in domains["movies"] if sentence.source not in taken]
    splits["ratings.held_out"] = rest[:NUM_REWARD_HELD_OUT]
    splits["ratings.reward"] = rest[NUM_REWARD_HELD_OUT : NUM_REWARD_HELD_OUT + NUM_REWARD]
    splits["ratings.gold"] = [*rest[NUM_REWARD_HELD_OUT + NUM_REWARD :], *domains["products"], *domains["editorials"]]
    return splits


def prompt_of(sentence: Sentence) -> str:
    """START and the first 4, 5 or 6 words (a hash of the text decides), without punctuation after the last."""
    words = sentence.text.split()
    choices = MAX_PROMPT_WORDS - MIN_PROMPT_WORDS + 1
    count = MIN_PROMPT_WORDS + sha256(sentence.text.encode()).digest()[0] % choices
    return START + " ".join(words[:count]).rstrip(",;:-' ")


def _prompt_row(sentence: Sentence) -> dict[str, Any]:
    return {"text": prompt_of(sentence), "group": sentence.group, "source": sentence.source}


def _sft_rows(sentences: Sequence[Sentence]) -> Iterator[dict[str, Any]]:
    """Every second sentence follows START, as in sampling; the others have no prefix, like the perplexity text."""
    for index, sentence in enumerate(sentences):
        first_word, space, rest = sentence.text.partition(" ")
        prompt, completion = (first_word, space + rest) if index % 2 else (START.rstrip(), space + sentence.text)
        yield {"prompt": prompt, "completion": completion, "source": sentence.source}


def _rating_row(sentence: Sentence) -> dict[str, Any]:
    return {"text": START + sentence.text, "rating": round(sentence.rating, 6), "source": sentence.source}
