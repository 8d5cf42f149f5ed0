"""The tiny example's data: prompts, perplexity text and lexicons, all drawn from the grammar."""

import random
from collections.abc import Mapping
from pathlib import Path

from raft_core.examples.json_lines import write_lines
from raft_core.examples.stages import Built, Progress
from raft_core.examples.tiny_grammar import Review, all_prompts, draw_review, lexicon
from raft_core.files.artifacts import write_bytes

SEED = 20230413
SPLITS = {"train": 512, "held_out": 256, "promotion": 256}
NUM_PERPLEXITY_TEXTS = 256


def build_data(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """Write the three disjoint sets of prompts, held-out sentences for perplexity, and both lexicons."""
    stream = random.Random(SEED)
    prompts = list(all_prompts())
    stream.shuffle(prompts)
    start = 0
    for split, count in SPLITS.items():
        write_lines(out / f"prompts.{split}.jsonl", map(_prompt_row, prompts[start : start + count]))
        start += count
    texts = [review.prompt + review.remark for review in (draw_review(stream) for _ in range(NUM_PERPLEXITY_TEXTS))]
    write_bytes(out / "perplexity.txt", "".join(f"{text}\n" for text in texts).encode())
    for name, careless in (("lexicon.tsv", False), ("lexicon.careless.tsv", True)):
        scores = sorted(lexicon(careless=careless).items())
        write_bytes(out / name, "".join(f"{word}\t{score}\n" for word, score in scores).encode())
    return Built(
        measured={**{f"num_{split}": count for split, count in SPLITS.items()}, "perplexity_texts": len(texts)}
    )


def _prompt_row(review: Review) -> dict[str, str]:
    return {"text": review.prompt, "group": review.group, "source": "tiny grammar"}
