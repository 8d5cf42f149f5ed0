"""Prepare the example from a folder that holds ``stories260K/`` and ``rt_polarity/``.

    python docs/examples/stories260k/prepare.py --data FOLDER --out data/stories

Every sentence of rt_polarity goes to one split, by the hash of its text: prompts (their first words), the perplexity
text, sentences that judge the reward model, and sentences that train it. On a second run the reward model is reused.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from raft_core.examples import prepare
from raft_core.examples.cache import stage_folder
from raft_core.examples.packages import PACKAGES
from raft_core.examples.reviews_sentences import HARSH
from raft_core.examples.reward_model import score, train_reward_model
from raft_core.errors import InputError
from raft_core.files.artifacts import write_bytes, write_json
from raft_core.types import content_id

PROMPTS = {"train": 640, "held_out": 256, "promotion": 128}
NUM_PERPLEXITY, NUM_JUDGED = 256, 1000
PLAIN_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence as the file has it (lower case, marks apart), and whether its review was positive."""

    text: str
    positive: bool

    @property
    def prompt(self) -> str | None:
        """The first 4 to 6 words (the text decides how many), if they are plain and harmless; else None."""
        count = 4 + int(content_id("words", self.text), 16) % 3
        words = self.text.split()[:count]
        plain = len(words) == count and all(PLAIN_WORD.fullmatch(word) for word in words)
        return " ".join(words).capitalize() if plain and not HARSH.search(self.text) else None


def main() -> None:
    """Write OUT: policy/, reward/, prompts.*.jsonl, perplexity.txt, metrics.json."""
    parser = argparse.ArgumentParser(description="Prepare the stories260K example")
    parser.add_argument("--data", type=Path, required=True, help="a folder with stories260K/ and rt_polarity/")
    parser.add_argument("--out", type=Path, default=Path("data/stories"))
    options = parser.parse_args()
    sentences = read_sentences(options.data / "rt_polarity")
    splits = split_sentences(sentences)
    copy_policy(options.data / "stories260K", options.out / "policy")
    for name in PROMPTS:
        rows = ({"text": s.prompt, "group": "positive" if s.positive else "negative"} for s in splits[name])
        write_bytes(options.out / f"prompts.{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_bytes(options.out / "perplexity.txt", "".join(f"{s.text}\n" for s in splits["perplexity"]).encode())
    if not (options.out / "metrics.json").exists():
        write_json(
            options.out / "metrics.json", train_reward(splits["reward"], splits["judged"], options.out / "reward")
        )
    print((options.out / "metrics.json").read_text())
    print("next: raft align docs/examples/stories260k/align.yaml")


def read_sentences(folder: Path) -> list[Sentence]:
    """Every distinct sentence, in an order that depends on the texts alone; one that has both labels is left out."""
    labels: dict[str, set[bool]] = {}
    for suffix, positive in (("pos", True), ("neg", False)):
        path = folder / f"rt-polarity.{suffix}"
        if not path.is_file():
            raise InputError(f"cannot find {path}", hint="give the folder that contains rt_polarity/ as --data")
        for line in path.read_text(encoding="latin-1").splitlines():
            labels.setdefault(" ".join(line.split()), set()).add(positive)
    sentences = [Sentence(text, True in found) for text, found in labels.items() if text and len(found) == 1]
    return sorted(sentences, key=lambda sentence: content_id("stories", sentence.text))


def split_sentences(sentences: Sequence[Sentence]) -> dict[str, list[Sentence]]:
    """Deal the sentences out. Prompts are distinct over all splits of prompts, without regard to case."""
    with_prompt = iter({s.prompt.lower(): s for s in reversed(sentences) if s.prompt}.values())
    splits = {name: list(islice(with_prompt, count)) for name, count in PROMPTS.items()}
    taken = {sentence for rows in splits.values() for sentence in rows}
    rest = [sentence for sentence in sentences if sentence not in taken]
    splits["perplexity"] = rest[:NUM_PERPLEXITY]
    splits["judged"] = rest[NUM_PERPLEXITY : NUM_PERPLEXITY + NUM_JUDGED]
    splits["reward"] = rest[NUM_PERPLEXITY + NUM_JUDGED :]
    return splits


def copy_policy(source: Path, target: Path) -> None:
    """Copy the model, unchanged, to where ``align.yaml`` expects it."""
    if not (source / "config.json").is_file():
        raise InputError(f"cannot find a model in {source}: it has no config.json", hint="give the folder that contains stories260K/ as --data")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)


def train_reward(sentences: Sequence[Sentence], judged: Sequence[Sentence], out: Path) -> dict[str, float]:
    """MiniLM (of the reviews example) fine-tuned to +1 and −1; how often its sign is right on unseen sentences."""
    receipts = prepare("reviews", stages=["packages"], progress=print)
    wheel = stage_folder("reviews", "packages", receipts["packages"].key) / PACKAGES["minilm"].file
    texts, labels = [s.text for s in sentences], [1.0 if s.positive else -1.0 for s in sentences]
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        loss = train_reward_model(wheel, texts, labels, out, Path(scratch), print)
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    unseen = [s.text for s in judged]
    return {
        "num_sentences": len(sentences), "num_held_out": len(judged), "loss": round(loss, 4),
        "accuracy": _accuracy(score(out, unseen), judged),
        "accuracy_lexicon": _accuracy([analyzer.polarity_scores(text)["compound"] for text in unseen], judged),
    }


def _accuracy(scores: Iterable[float], judged: Sequence[Sentence]) -> float:
    right = sum((value > 0) == sentence.positive for value, sentence in zip(scores, judged, strict=True))
    return round(right / len(judged), 4)


if __name__ == "__main__":
    main()
