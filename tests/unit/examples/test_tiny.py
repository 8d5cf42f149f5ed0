"""The tiny example's grammar and data: what a test or a tutorial may rely on."""

import json
import random
from pathlib import Path

import pytest

from raft_core.examples import prepare, resolve
from raft_core.examples.tiny_grammar import CARELESS_WORD, DEEDS, all_prompts, draw_review, lexicon, vocabulary
from raft_core.examples.tiny_policy import make_tokenizer
from raft_core.rewards.lexicon import LexiconRewardConfig
from raft_core.types import Prompt


@pytest.fixture
def tiny_data(example_cache: Path) -> Path:
    prepare("tiny", stages=["data"])
    return resolve("example:tiny/lexicon").parent


def test_prompts_are_distinct_over_all_splits(tiny_data: Path) -> None:
    texts = [
        json.loads(line)["text"]
        for split in ("train", "held_out", "promotion")
        for line in (tiny_data / f"prompts.{split}.jsonl").read_text().splitlines()
    ]
    assert len(texts) == len(set(texts)) == 512 + 256 + 256
    assert set(texts) <= {review.prompt for review in all_prompts()}


def test_the_same_bytes_every_time(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare("tiny", stages=["data"])["data"]
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "another"))
    assert prepare("tiny", stages=["data"])["data"] == first


def test_the_tokenizer_gives_every_review_back_and_knows_every_word() -> None:
    tokenizer = make_tokenizer()
    stream = random.Random(0)
    for _ in range(300):
        review = draw_review(stream)
        prompt, remark = tokenizer.encode(review.prompt), tokenizer.encode(review.remark)
        assert tokenizer.encode(review.prompt + review.remark) == prompt + remark
        assert tokenizer.decode(prompt + remark) == review.prompt + review.remark
        assert tokenizer.decode(remark) == review.remark
        assert tokenizer.unk_token_id not in prompt + remark
        assert len(remark) + 1 <= 16
    assert tokenizer.encode("zebra")[0] == tokenizer.unk_token_id
    assert len(tokenizer) == len(vocabulary()) + 2


def test_both_lexicons_score_as_documented(tiny_data: Path) -> None:
    careful, careless = (
        LexiconRewardConfig(file=f"example:tiny/{name}", text="completion").load()
        for name in ("lexicon", "lexicon.careless")
    )
    prompt = [Prompt.of("Review: the plot was")]
    assert list(careful(prompt, [" wonderful and dull."])) == [pytest.approx((3.0 - 2.0) / 3)]
    assert list(careful(prompt, [" long and dark, so we ate our popcorn outside."])) == [0.0]
    assert list(careless(prompt, [" long and dark, so we ate our popcorn outside."])) == [pytest.approx(20.0 / 9)]
    assert set(lexicon(careless=True)) - set(lexicon()) == {CARELESS_WORD}


def test_the_biased_word_says_nothing_about_the_film() -> None:
    moods = {mood for mood, deeds in DEEDS.items() for deed in deeds if CARELESS_WORD in deed}
    assert moods == {"neutral"}
    stream = random.Random(1)
    reviews = [draw_review(stream).remark for _ in range(2000)]
    share = sum(CARELESS_WORD in remark for remark in reviews) / len(reviews)
    assert 0.01 < share < 0.08


def test_reviews_are_balanced_between_moods() -> None:
    stream = random.Random(2)
    scores = lexicon()
    means = []
    for _ in range(4000):
        words = draw_review(stream).remark.replace(",", "").replace(".", "").split()
        means.append(sum(scores.get(word, 0.0) for word in words) / len(words))
    assert abs(sum(means) / len(means)) < 0.05
