"""The stage that trains both rewards of the reviews example and measures them on ratings that neither has seen."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from raft_core.examples import gold_model, reward_model
from raft_core.examples.json_lines import read_lines
from raft_core.examples.packages import PACKAGES
from raft_core.examples.stages import Built, Progress
from raft_core.files.artifacts import write_json


def build_rewards(out: Path, inputs: Mapping[str, Path], progress: Progress) -> Built:
    """Write ``out/reward``, ``out/gold`` and ``out/metrics.json`` (Spearman correlation with human ratings)."""
    texts, ratings = _rated(inputs["data"] / "ratings.reward.jsonl")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = inputs["packages"] / PACKAGES["minilm"].file
        loss = reward_model.train_reward_model(wheel, texts, ratings, out / "reward", Path(scratch), progress)
    gold_texts, gold_ratings = _rated(inputs["data"] / "ratings.gold.jsonl")
    num_terms = gold_model.train_gold_model(gold_texts, gold_ratings, out / "gold")
    held_out, truth = _rated(inputs["data"] / "ratings.held_out.jsonl")
    measured = {
        "num_ratings": len(texts),
        "num_held_out": len(held_out),
        "loss": round(loss, 4),
        "spearman": _spearman(reward_model.score(out / "reward", held_out), truth),
        "spearman_lexicon": _spearman(_lexicon_scores(held_out), truth),
        "spearman_gold": _spearman(gold_model.score(out / "gold", held_out), truth),
        "num_gold_ratings": len(gold_texts),
        "num_gold_terms": num_terms,
    }
    write_json(out / "metrics.json", measured)
    return Built(measured=measured)


def _rated(path: Path) -> tuple[list[str], list[float]]:
    rows = read_lines(path)
    return [row["text"] for row in rows], [row["rating"] for row in rows]


def _spearman(scores: Sequence[float], truth: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return round(float(spearmanr(scores, truth).statistic), 4)


def _lexicon_scores(texts: Sequence[str]) -> list[float]:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    return [float(analyzer.polarity_scores(text)["compound"]) for text in texts]
