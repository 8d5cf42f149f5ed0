"""The linear TF-IDF reward: a hand-computed score, what is saved is what is loaded, broken folders."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from raft_core.errors import InputError
from raft_core.rewards.linear import LinearRewardConfig, load, save
from raft_core.types import Prompt

PROMPTS = [Prompt.of("a good ")] * 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three terms (good, film, good film) with idf 1, 2, 3 and weights 1, −1, 0.5; intercept 0.25."""
    model = {"kind": "tfidf_linear", "ngram_range": [1, 2], "lowercase": True, "sublinear_tf": True, "intercept": 0.25}
    (tmp_path / "config.json").write_text(json.dumps({**model, "token_pattern": r"(?u)\b\w+\b"}))
    (tmp_path / "vocabulary.json").write_text(json.dumps({"good": 0, "film": 1, "good film": 2}))
    weights = {"idf": np.array([1.0, 2.0, 3.0]), "coef": np.array([1.0, -1.0, 0.5])}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def test_hand_computed(folder: Path) -> None:
    reward = load(LinearRewardConfig(model=str(folder), text="completion"))
    # "Good good film": tf good 2 → 1 + ln 2, film 1, "good film" 1
    x = [(1 + math.log(2)) * 1, 2.0, 3.0]
    expected = 0.25 + (x[0] - x[1] + 0.5 * x[2]) / math.hypot(*x)
    assert reward(PROMPTS, ["Good good film", "unknown", ""]) == [pytest.approx(expected, rel=1e-14), 0.25, 0.25]


def test_prompt_and_completion_are_concatenated(folder: Path) -> None:
    reward = load(LinearRewardConfig(model=str(folder)))
    alone = load(LinearRewardConfig(model=str(folder), text="completion"))
    assert reward(PROMPTS, ["film"] * 3) == alone(PROMPTS, ["a good film"] * 3)
    assert reward.identity != alone.identity


def test_saved_and_loaded_predict_the_same(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import Ridge

    texts = ["a good film", "a bad film", "good good ending", "bad plot bad", "Émile is good"]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    ridge = Ridge().fit(vectorizer.fit_transform(texts), [1.0, -1.0, 1.0, -1.0, 0.5])
    save(tmp_path / "model", vectorizer, ridge)
    reward = load(LinearRewardConfig(model=str(tmp_path / "model"), text="completion"))
    seen = [*texts, "a good plot", "nothing known"]
    expected = ridge.predict(vectorizer.transform(seen))
    np.testing.assert_allclose(reward([Prompt.of("")] * len(seen), seen), expected, rtol=1e-13)
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocabulary.json",
    ]
    save(tmp_path / "again", vectorizer, ridge)
    assert load(LinearRewardConfig(model=str(tmp_path / "again"), text="completion")).identity == reward.identity


def test_a_vectorizer_that_the_format_cannot_hold(tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    with pytest.raises(ValueError, match="stop_words"):
        save(tmp_path, TfidfVectorizer(stop_words=["a"]), None)


def _set(name: str, **values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **values}))

    return change


def _cut(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (_set("config.json", kind="pickle"), "tfidf_linear"),
        (_set("config.json", surprise=1), "surprise"),
        (_set("config.json", token_pattern="("), "token|config.json"),
        (_set("config.json", ngram_range=[2, 1]), "ngram_range"),
        (_set("vocabulary.json", film=0), "gaps"),
        (_set("vocabulary.json", extra=3), "4 finite numbers"),
        (lambda f: (f / "vocabulary.json").write_text("[1]"), "vocabulary"),
        (_cut, "model.safetensors"),
        (lambda f: save_file({"idf": np.ones(3)}, f / "model.safetensors"), "coef"),
        (lambda f: save_file({"idf": np.ones(3), "coef": np.full(3, np.nan)}, f / "model.safetensors"), "finite"),
    ],
)
def test_broken_folders(folder: Path, breaks: Callable[[Path], object], told: str) -> None:
    breaks(folder)
    with pytest.raises(InputError, match=told) as caught:
        load(LinearRewardConfig(model=str(folder)))
    assert str(folder) in caught.value.what
    assert caught.value.expected
    assert caught.value.hint


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        load(LinearRewardConfig(model=str(tmp_path / "nowhere")))
