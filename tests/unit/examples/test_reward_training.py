"""The trainings of the reviews example's rewards, as far as they need no real packages."""

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from raft_core.examples import gold_model
from raft_core.examples.reward_model import BATCH, _batches


@settings(max_examples=40)
@given(st.integers(0, 1300), st.integers(1, 97))
def test_every_text_is_in_one_batch(count: int, stride: int) -> None:
    texts = ["x" * (index * stride % 60) for index in range(count)]
    batches = list(_batches(texts))
    assert sorted(row for batch in batches for row in batch) == list(range(len(texts)))
    assert all(1 <= len(batch) <= BATCH for batch in batches)
    assert list(_batches(texts)) == batches


def test_batches_waste_little_padding() -> None:
    texts = ["x" * (1 + (index * 37) % 100) for index in range(2000)]
    padded = sum(len(batch) * max(len(texts[row]) for row in batch) for batch in _batches(texts))
    assert padded < 1.1 * sum(map(len, texts))


def test_the_gold_model_ranks_what_it_was_told(tmp_path: Path) -> None:
    texts = [f"a {word} film with a {noun}" for word in ("warm", "dull") for noun in ("hero", "plot", "song") * 4]
    ratings = [2.0 if "warm" in text else -2.0 for text in texts]
    num_terms = gold_model.train_gold_model(texts, ratings, tmp_path / "gold")
    good, bad, unknown = gold_model.score(tmp_path / "gold", ["a warm song", "a dull song", "zebra"])
    assert good > unknown > bad
    assert abs(unknown) < 0.01
    assert num_terms == 17
    assert sorted(path.name for path in (tmp_path / "gold").iterdir()) == [
        "config.json",
        "model.safetensors",
        "vocabulary.json",
    ]
