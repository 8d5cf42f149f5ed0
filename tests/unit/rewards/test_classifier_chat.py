"""A classifier that was trained on chats is scored on chats; which form it reads is never guessed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raft_core.errors import ConfigError, InputError
from raft_core.rewards import classifier
from raft_core.rewards.classifier import ClassifierRewardConfig
from raft_core.rewards.returned import Failure
from raft_core.types import Prompt

pytestmark = pytest.mark.slow

Maker = Callable[..., Path]
TEMPLATE = (
    "{% for m in messages %}{{ '[CLS]' if m['role'] == 'user' else '[SEP]' }} {{ m['content'] }} [SEP]{% endfor %}"
    "{% if add_generation_prompt %}[SEP]{% endif %}"
)
CLS, SEP, A, GOOD, BAD, FILM, WAS = 2, 3, 4, 5, 6, 7, 8


def config(folder: Path, **settings: Any) -> ClassifierRewardConfig:
    return ClassifierRewardConfig(model=str(folder), **{"max_tokens": 16, **settings})


@pytest.fixture
def folder(classifier_maker: Maker, tmp_path: Path) -> Path:
    return classifier_maker(tmp_path / "model", chat_template=TEMPLATE)


def by_hand(folder: Path, ids: list[int]) -> float:
    """The logit of one sequence of token ids."""
    import torch
    from transformers import BertForSequenceClassification

    with torch.inference_mode():
        return float(BertForSequenceClassification.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0, 0])


PROMPTS = [Prompt.of("a film"), Prompt.of("was a film")]
TEXTS = ["good", "bad was bad"]


def test_prompt_and_completion_are_rendered_as_turns(folder: Path) -> None:
    scores = classifier.load(config(folder, chat_template=True))(PROMPTS, TEXTS)
    expected = [[CLS, A, FILM, SEP, SEP, GOOD, SEP], [CLS, WAS, A, FILM, SEP, SEP, BAD, WAS, BAD, SEP]]
    assert scores == pytest.approx([by_hand(folder, ids) for ids in expected], abs=1e-5)


def test_plain_text_where_that_is_asked_for(folder: Path) -> None:
    scores = classifier.load(config(folder, chat_template=False))(PROMPTS, [f" {text}" for text in TEXTS])
    expected = [[CLS, A, FILM, GOOD, SEP], [CLS, WAS, A, FILM, BAD, WAS, BAD, SEP]]
    assert scores == pytest.approx([by_hand(folder, ids) for ids in expected], abs=1e-5)


def test_a_long_chat_loses_its_beginning(folder: Path) -> None:
    scores = classifier.load(config(folder, chat_template=True, max_tokens=4))(PROMPTS[:1], TEXTS[:1])
    assert scores == pytest.approx([by_hand(folder, [SEP, SEP, GOOD, SEP])], abs=1e-5)


def test_a_template_is_refused_before_weights_load_unless_the_form_is_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "_load_model", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=r"no `chat_template`(?s:.*)true or false"):
        classifier.load(config(folder))


def test_a_template_that_is_not_there(classifier_maker: Maker, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chat_template: false"):
        classifier.load(config(classifier_maker(tmp_path / "model"), chat_template=True))


def test_the_prompt_cannot_be_left_out_of_a_chat() -> None:
    with pytest.raises(ValueError, match="text: prompt_and_completion"):
        ClassifierRewardConfig(model="m", chat_template=True, text="completion")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('no replies') }}", "no replies"),
        ("{% for m in messages[:1] %}{{ m['content'] }}{% endfor %}", "contains the completion"),
        ("{{ ['a', 'film']|random }}" + TEMPLATE, "differently each time"),
        ("{{ 'x' * 10**11 }}", "MemoryError|OverflowError|took more"),
    ],
    ids=["refuses", "no reply", "random", "memory"],
)
def test_a_template_that_cannot_be_used(classifier_maker: Maker, tmp_path: Path, template: str, told: str) -> None:
    folder = classifier_maker(tmp_path / "model", chat_template=template)
    with pytest.raises(InputError, match=told):
        classifier.load(config(folder, chat_template=True))


def test_a_template_that_fails_on_one_text_names_itself(classifier_maker: Maker, tmp_path: Path) -> None:
    refusing = "{% if 'bad' in messages[1]['content'] %}{{ raise_exception('rude') }}{% endif %}" + TEMPLATE
    reward = classifier.load(config(classifier_maker(tmp_path / "model", chat_template=refusing), chat_template=True))
    assert len(reward(PROMPTS[:1], TEXTS[:1])) == 1
    good, bad = reward(PROMPTS, TEXTS)
    assert isinstance(good, float)
    assert isinstance(bad, Failure)
    assert "chat template" in bad.reason
    assert "rude" in bad.reason


@pytest.mark.parametrize("pads", [False, True], ids=["no token to pad with", "one of its own"])
def test_a_decoder_reads_the_end_of_the_text_that_its_template_writes(folder: Path, pads: bool) -> None:
    """Though the tokenizer pads with that token, where it has no other."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    settings = LlamaConfig(
        vocab_size=9,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=1,
        max_position_embeddings=16,
        initializer_range=1.0,
        eos_token_id=SEP,
        bos_token_id=None,
        pad_token_id=0 if pads else None,
    )
    model = LlamaForSequenceClassification(settings).eval()
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "[SEP]"
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with torch.inference_mode():
        wanted = [
            float(model(torch.tensor([ids])).logits[0, 0])
            for ids in ([CLS, A, FILM, SEP, SEP, GOOD, SEP], [CLS, WAS, A, FILM, SEP, SEP, BAD, WAS, BAD, SEP])
        ]
    assert classifier.load(config(folder, chat_template=True))(PROMPTS, TEXTS) == pytest.approx(wanted, abs=1e-5)


def test_a_template_that_prints_the_date_needs_one(classifier_maker: Maker, tmp_path: Path) -> None:
    dated = "{% if strftime_now('%Y') == '2024' %}good {% endif %}" + TEMPLATE
    folder = classifier_maker(tmp_path / "model", chat_template=dated)
    with pytest.raises(InputError, match="template_date: YYYY-MM-DD"):
        classifier.load(config(folder, chat_template=True))
    (score,) = classifier.load(config(folder, chat_template=True, template_date="2024-02-29"))(PROMPTS[:1], TEXTS[:1])
    assert score == pytest.approx(by_hand(folder, [GOOD, CLS, A, FILM, SEP, SEP, GOOD, SEP]), abs=1e-5)


def test_identity_follows_the_form(folder: Path) -> None:
    assert len({classifier.load(config(folder, chat_template=form)).identity for form in (True, False)}) == 2
