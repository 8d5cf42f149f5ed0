"""Sampling against a naive loop, and what may not decide a sample: K, its batch, its order."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raft_core.config.sampling import SamplingConfig
from raft_core.policies.text.distribution import filtered
from raft_core.policies.text.engines.transformers import LoadedTextPolicy
from raft_core.policies.text.model import memory_errors
from raft_core.policies.text.sample import sample_seed, uniforms
from raft_core.types import Prompt, Sample

Settings = Callable[..., SamplingConfig]


def naive(
    policy: LoadedTextPolicy, ids: list[int], seed: int, sampling: SamplingConfig
) -> tuple[list[int], list[float]]:
    """One sample: the whole sequence again at every step, no cache, no batch, a plain inverse CDF."""
    stream = np.random.Generator(np.random.Philox(key=seed)).random(sampling.max_new_tokens)
    tokens: list[int] = []
    logprobs: list[float] = []
    for step in range(sampling.max_new_tokens):
        with torch.no_grad():
            logits = policy.model(torch.tensor([[*ids, *tokens]])).logits[0, -1]
        if step < sampling.min_new_tokens:
            logits[list(policy.eos)] = -torch.inf
        kept = filtered(logits[None] / sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)[0]
        probabilities = torch.softmax(kept.double(), -1).numpy()
        token = int(np.searchsorted(probabilities.cumsum() / probabilities.sum(), stream[step], side="right"))
        tokens.append(token)
        logprobs.append(float(np.log(probabilities[token])))
        if token in policy.eos:
            break
    return tokens, logprobs


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 1.0}, {"top_k": 5}, {"top_p": 0.5}, {"min_new_tokens": 6}, {"temperature": 2.5}]
)
def test_samples_equal_a_naive_loop_under_the_same_uniform_numbers(
    tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings, changes: dict[str, object]
) -> None:
    sampling = settings(**changes)
    for sample in tiny.sample(prompts, sampling, samples_per_prompt=3, seed=11):
        tokens, logprobs = naive(tiny, list(sample.prompt_token_ids), sample.seed, sampling)
        assert list(sample.completion_token_ids) == tokens
        assert sample.sampling_logprobs == pytest.approx(logprobs, abs=1e-4)


def test_log_probabilities_equal_teacher_forcing(
    tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    samples = tiny.sample(prompts, settings(temperature=0.7), samples_per_prompt=4, seed=3)
    for temperature, kept in ((1.0, [s.logprobs for s in samples]), (0.7, [s.sampling_logprobs for s in samples])):
        forced = tiny.logprobs(samples, temperature=temperature)
        for sampled, scored in zip(kept, forced, strict=True):
            assert sampled == pytest.approx(scored, abs=1e-4)


def test_a_sample_depends_on_neither_k_nor_batch_nor_order(
    tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    def by_id(samples: list[Sample]) -> dict[str, Sample]:
        return {s.sample_id: s for s in samples}

    many = by_id(tiny.sample(prompts, settings(), samples_per_prompt=5, seed=1))
    few = by_id(tiny.sample(prompts[::-1], settings(), samples_per_prompt=2, seed=1))
    alone = by_id(tiny.sample(prompts[:1], settings(), samples_per_prompt=1, seed=1))
    assert few.keys() <= many.keys()
    assert alone.keys() <= few.keys()
    for found in (few, alone):
        for sample_id, sample in found.items():
            assert sample.completion_token_ids == many[sample_id].completion_token_ids
            assert sample.logprobs == pytest.approx(many[sample_id].logprobs, abs=1e-4)


def test_order_is_by_prompt_then_k(tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings) -> None:
    samples = tiny.sample(prompts, settings(), samples_per_prompt=2, seed=1)
    assert [(s.prompt_id, s.k) for s in samples] == [(p.prompt_id, k) for p in prompts for k in range(2)]
    assert [s.prompt_token_ids for s in samples[::2]] == [tuple(tiny.tokenizer(p.text).input_ids) for p in prompts]


def test_the_same_call_gives_the_same_samples(
    tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    first, second = (tiny.sample(prompts, settings(), samples_per_prompt=3, seed=5) for _ in range(2))
    assert first == second


def test_identities_follow_what_can_change_a_sample(
    tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    def ids(seed: int = 1, **changes: object) -> set[str]:
        return {s.sample_id for s in tiny.sample(prompts[:1], settings(**changes), samples_per_prompt=2, seed=seed)}

    same = ids()
    assert len(same) == 2
    assert ids(shard_prompts=3, batch_prompts=1, prompts_per_iteration=7) == same
    for other in (
        ids(seed=2),
        ids(temperature=0.5),
        ids(top_k=3),
        ids(max_new_tokens=4),
        ids(stop=("x",)),
        ids(stop_token_ids=(5,)),
        ids(skip_special_tokens=True),
    ):
        assert not other & same


def test_seeds_have_63_bits_and_differ() -> None:
    seeds = {sample_seed(0, prompt, k) for prompt in ("a", "b") for k in range(100)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert uniforms([7, 8], 3)[0].tolist() == uniforms([7], 5)[0, :3].tolist()


def test_greedy_takes_the_likeliest_token(tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings) -> None:
    for sample in tiny.sample(prompts, settings(temperature=0, samples_per_prompt=1), samples_per_prompt=1, seed=0):
        with torch.no_grad():
            whole = torch.tensor([[*sample.prompt_token_ids, *sample.completion_token_ids]])
            logits = tiny.model(whole).logits[0, len(sample.prompt_token_ids) - 1 : -1]
        assert logits.argmax(-1).tolist() == list(sample.completion_token_ids)
        assert set(sample.sampling_logprobs) == {0.0}


def test_a_response_ends_with_any_end_token_which_is_kept_and_not_told(
    make_checkpoint: Callable[..., Path],
    load_tiny: Callable[[Path], LoadedTextPolicy],
    tmp_path: Path,
    prompts: list[Prompt],
    settings: Settings,
) -> None:
    policy = load_tiny(make_checkpoint(tmp_path / "m", eos=[1, *range(3, 33)]))
    assert policy.eos == {1, *range(3, 33)}
    samples = policy.sample(prompts, settings(), samples_per_prompt=8, seed=2)
    assert {s.finish_reason for s in samples} == {"stop", "length"}
    for sample in samples:
        *body, last = sample.completion_token_ids
        assert not policy.eos & set(body)
        assert (last in policy.eos) == (sample.finish_reason == "stop")
        told = body if sample.finish_reason == "stop" else [*body, last]
        assert sample.completion == policy.tokenizer.decode(told)
        assert len(sample.logprobs) == len(sample.sampling_logprobs) == len(sample.completion_token_ids) <= 10


def test_a_stop_string_ends_the_text_and_keeps_the_token_that_completed_it(
    tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings
) -> None:
    free = tiny.sample(prompts, settings(), samples_per_prompt=4, seed=9)
    stop = ("3", "7 w")
    stopped = tiny.sample(prompts, settings(stop=stop), samples_per_prompt=4, seed=9)
    cut = 0
    for before, after in zip(free, stopped, strict=True):
        ends = [before.completion.find(s) + len(s) for s in stop if s in before.completion]
        if not ends:
            assert after.completion == before.completion
            continue
        cut += 1
        assert after.finish_reason == "stop"
        assert after.completion == before.completion[: min(ends)]
        count = len(after.completion_token_ids)
        assert after.completion_token_ids == before.completion_token_ids[:count]
        texts = [
            "".join(tiny.tokenizer.convert_ids_to_tokens(before.completion_token_ids[:n])) for n in (count - 1, count)
        ]
        assert not any(s in texts[0] for s in stop)
        assert any(s in texts[1] for s in stop)
    assert cut >= 2


def test_nothing_ends_a_response_below_the_least_length(
    make_checkpoint: Callable[..., Path],
    load_tiny: Callable[[Path], LoadedTextPolicy],
    tmp_path: Path,
    prompts: list[Prompt],
    settings: Settings,
) -> None:
    policy = load_tiny(make_checkpoint(tmp_path / "m", eos=[1, *range(3, 63)]))
    samples = policy.sample(prompts, settings(min_new_tokens=4, stop=("8",)), samples_per_prompt=8, seed=4)
    lengths = [len(s.completion_token_ids) for s in samples]
    assert min(lengths) >= 4
    assert 4 in lengths
    for sample in (s for s in samples if s.completion_token_ids[-1] not in policy.eos and s.finish_reason == "stop"):
        assert sample.completion.endswith("8")


def test_a_model_that_fails_gives_quarantined_samples_not_an_error(
    make_checkpoint: Callable[..., Path],
    load_tiny: Callable[[Path], LoadedTextPolicy],
    tmp_path: Path,
    prompts: list[Prompt],
    settings: Settings,
) -> None:
    policy = load_tiny(make_checkpoint(tmp_path / "m", tie=False))
    with torch.no_grad():
        policy.model.lm_head.weight[5] = torch.nan
    samples = policy.sample(prompts, settings(), samples_per_prompt=2, seed=4)
    assert len(samples) == 8
    assert {(s.status, s.finish_reason, s.completion_token_ids) for s in samples} == {("quarantined", "error", ())}
    assert "not finite" in samples[0].reason


def test_progress_counts_every_token(tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings) -> None:
    counted: list[int] = []
    samples = tiny.sample(prompts, settings(stop=("4",)), samples_per_prompt=3, seed=1, progress=counted.append)
    assert sum(counted) == sum(len(s.completion_token_ids) for s in samples)


def test_memory_that_runs_out_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="allocate"), memory_errors():
        torch.empty(1 << 55)
    with pytest.raises(MemoryError), memory_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(RuntimeError, match="shape"), memory_errors():
        raise RuntimeError("shape mismatch")


def test_no_prompts_give_no_samples(tiny: LoadedTextPolicy, settings: Settings) -> None:
    assert tiny.sample([], settings(), samples_per_prompt=4, seed=1) == []


def test_a_sample_is_what_the_table_holds(tiny: LoadedTextPolicy, prompts: list[Prompt], settings: Settings) -> None:
    from raft_core.records.tables import SAMPLES, to_table

    samples = tiny.sample(prompts, settings(), samples_per_prompt=2, seed=1)
    rows = to_table(SAMPLES, samples).to_pylist()
    assert [tuple(r["completion_token_ids"]) for r in rows] == [s.completion_token_ids for s in samples]
    assert replace(samples[0], k=5) != samples[0]
