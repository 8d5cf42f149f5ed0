"""Special tokens, tokens that end a completion, and ids that are no tokens: what a completion's text is."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from raft_core.config.sampling import SamplingConfig
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.types import Prompt, Sample

Settings = Callable[..., SamplingConfig]
THINK, END = "<think>", "<|im_end|>"


@pytest.fixture(scope="module")
def chat(
    make_checkpoint: Callable[..., Path],
    load_tiny: Callable[[Path], LoadedTextPolicy],
    tmp_path_factory: pytest.TempPathFactory,
) -> LoadedTextPolicy:
    """A policy with special tokens besides its end of sequence, 123 and 124."""
    return load_tiny(make_checkpoint(tmp_path_factory.mktemp("chat") / "m", special=(THINK, END)))


def sampled(policy: LoadedTextPolicy, prompts: list[Prompt], sampling: SamplingConfig) -> list[Sample]:
    return policy.sample(prompts, sampling, samples_per_prompt=24, seed=5)


def test_rewards_see_special_tokens_unless_they_are_skipped(
    chat: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    shown, hidden = (
        sampled(chat, prompts, settings(temperature=2.5, skip_special_tokens=skip)) for skip in (False, True)
    )
    assert any(THINK in sample.completion for sample in shown)
    for one, other in zip(shown, hidden, strict=True):
        assert one.completion_token_ids == other.completion_token_ids
        assert one.completion.count(THINK) == one.completion_token_ids.count(123)
        assert "<eos>" not in one.completion
        assert other.completion == one.completion.replace(THINK, "").replace(END, "").replace("<unk>", "")


@pytest.mark.parametrize("skip", [False, True])
def test_a_stop_string_matches_a_special_token(
    chat: LoadedTextPolicy, prompts: list[Prompt], settings: Settings, skip: bool
) -> None:
    samples = sampled(chat, prompts, settings(temperature=2.5, stop=(END,), skip_special_tokens=skip))
    ended = [sample for sample in samples if 124 in sample.completion_token_ids]
    assert len(ended) > 3
    for sample in ended:
        assert sample.finish_reason == "stop"
        assert sample.completion_token_ids.index(124) == len(sample.completion_token_ids) - 1
        assert sample.completion.endswith(END) != skip
        assert sample.completion == chat.tokenizer.decode(sample.completion_token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize(("skip", "stop", "told"), [(False, ">. w", ">. w"), (True, ">. w", ". w"), (True, "<thi", "")])
def test_text_behind_a_stop_string_is_cut_also_where_special_tokens_are_skipped(
    chat: LoadedTextPolicy, settings: Settings, skip: bool, stop: str, told: str
) -> None:
    from raft_core.policies.text.sample import Draft, Rules

    rules = Rules(settings(stop=(stop,), skip_special_tokens=skip), chat.tokenizer, chat.eos, chat.known)
    word = chat.tokenizer.convert_tokens_to_ids(" w17")
    tokens = [word, 123] if stop == "<thi" else [word, 123, 2, word]
    draft = Draft((3,), tokens)
    rules.stop([draft])
    assert draft.finish_reason == "stop"
    before = " w17" if skip else " w17<think"
    assert draft.text == before + told


def test_a_stop_token_ends_a_completion_as_the_end_of_sequence_does(
    chat: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    ends = (124, *range(20, 40))
    samples = sampled(chat, prompts, settings(stop_token_ids=ends))
    stopped = [sample for sample in samples if sample.completion_token_ids[-1] in ends]
    assert len(stopped) > 10
    assert {sample.finish_reason for sample in stopped} == {"stop"}
    for sample in samples:
        assert not set(ends) & set(sample.completion_token_ids[:-1])
    for sample in stopped:
        assert sample.completion == chat.tokenizer.decode(sample.completion_token_ids[:-1])
    late = sampled(chat, prompts, settings(stop_token_ids=ends, min_new_tokens=4))
    assert not any(set(ends) & set(sample.completion_token_ids[:4]) for sample in late)


def test_ids_beyond_the_tokenizer_are_never_drawn(
    make_checkpoint: Callable[..., Path],
    load_tiny: Callable[[Path], LoadedTextPolicy],
    tmp_path: Path,
    prompts: list[Prompt],
    settings: Settings,
) -> None:
    policy = load_tiny(make_checkpoint(tmp_path / "m", padding=200))
    for changes in ({}, {"min_new_tokens": 5}, {"temperature": 0.0, "samples_per_prompt": 1}):
        samples = policy.sample(prompts, settings(**changes), samples_per_prompt=8, seed=5)
        assert max(token for sample in samples for token in sample.completion_token_ids) < 123
    (sample, *_) = policy.sample(prompts, settings(temperature=0.7), samples_per_prompt=1, seed=5)
    with torch.no_grad():
        ids = torch.tensor([[*sample.prompt_token_ids, *sample.completion_token_ids]])
        logits = policy.model(ids).logits[0, len(sample.prompt_token_ids) - 1 : -1]
    drawn = torch.tensor(sample.completion_token_ids)[:, None]
    restricted = torch.log_softmax(logits[:, :123] / 0.7, -1).gather(1, drawn)[:, 0]
    assert sample.sampling_logprobs == pytest.approx(restricted.tolist(), abs=1e-4)
    assert sample.logprobs == pytest.approx(torch.log_softmax(logits, -1).gather(1, drawn)[:, 0].tolist(), abs=1e-4)


def spaced() -> PreTrainedTokenizerFast:
    """A tokenizer that drops the space before the first word, as those of SentencePiece do."""
    ids = {token: i for i, token in enumerate(["<unk>", "</s>", "▁a", "▁good", "▁film", "s"])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def test_a_stop_string_that_begins_with_a_space_is_found_as_the_first_word(
    make_checkpoint: Callable[..., Path],
    load_tiny: Callable[[Path], LoadedTextPolicy],
    tmp_path: Path,
    settings: Settings,
) -> None:
    folder = make_checkpoint(tmp_path / "m")
    spaced().save_pretrained(folder)
    samples = load_tiny(folder).sample([Prompt.of("a film")], settings(stop=(" good",)), samples_per_prompt=32, seed=5)
    first = [sample for sample in samples if sample.completion_token_ids[0] == 3]
    assert first
    assert {(s.completion, s.completion_token_ids, s.finish_reason) for s in first} == {(" good", (3,), "stop")}
    assert not any(3 in sample.completion_token_ids[:-1] for sample in samples)
