"""The gold reward of the reviews example: TF-IDF and ridge regression, unlike the reward model."""

from collections.abc import Sequence
from pathlib import Path

from raft_core.rewards.linear import LinearRewardConfig, load, save
from raft_core.types import Prompt

NGRAMS, TOKEN, MIN_COUNT, RIDGE = (1, 2), r"(?u)\b\w+\b", 2, 1.0


def train_gold_model(texts: Sequence[str], ratings: Sequence[float], out: Path) -> int:
    """Fit on ``texts`` and save to ``out``, without pickle. Returns the number of terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    vectorizer = TfidfVectorizer(ngram_range=NGRAMS, token_pattern=TOKEN, sublinear_tf=True, min_df=MIN_COUNT)
    features_NV = vectorizer.fit_transform(texts)
    ridge = Ridge(alpha=RIDGE, solver="sparse_cg", tol=1e-6).fit(features_NV, ratings)
    save(out, vectorizer, ridge)
    return len(vectorizer.vocabulary_)


def score(folder: Path, texts: Sequence[str]) -> list[float]:
    """The saved model's score of each text, computed as in a run."""
    reward = load(LinearRewardConfig(model=str(folder), text="completion"))
    return list(reward([Prompt.of("")] * len(texts), texts))
