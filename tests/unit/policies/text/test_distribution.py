"""The sampled distribution: which tokens remain, and which one a uniform number picks."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raft_core.policies.text import distribution
from raft_core.policies.text.distribution import draw, filtered


def kept(logits: list[float], *, top_k: int = 0, top_p: float = 1.0) -> set[int]:
    result = filtered(torch.tensor([logits]), top_k=top_k, top_p=top_p)[0]
    return set(torch.isfinite(result).nonzero()[:, 0].tolist())


LOGITS = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]


@pytest.mark.parametrize(
    ("top_k", "expected"), [(0, {0, 1, 2, 3}), (1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (9, {0, 1, 2, 3})]
)
def test_top_k_keeps_the_likeliest(top_k: int, expected: set[int]) -> None:
    assert kept(LOGITS, top_k=top_k) == expected


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(1.0, {0, 1, 2, 3}), (0.95, {0, 1, 2, 3}), (0.85, {1, 2, 3}), (0.6, {1, 3}), (0.3, {1}), (1e-9, {1})],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, expected: set[int]) -> None:
    assert kept(LOGITS, top_p=top_p) == expected


def test_ties_at_the_limit_are_all_kept() -> None:
    assert kept([1.0, 2.0, 1.0, 0.0], top_k=2) == {0, 1, 2}
    assert kept([0.0, 0.0, 0.0, 0.0], top_p=0.25) == {0, 1, 2, 3}


def test_top_p_counts_within_top_k() -> None:
    # Of .4 and .3 alone, .4 is 57 %: enough for 0.5, though it is less than half of everything.
    assert kept(LOGITS, top_k=2, top_p=0.5) == {1}
    assert kept(LOGITS, top_p=0.5) == {1, 3}


def test_top_p_of_a_flat_distribution_beyond_the_likely_tokens() -> None:
    logits = torch.linspace(0, 1e-3, 2000)[None]
    result = filtered(logits, top_k=0, top_p=0.9)
    probabilities = torch.softmax(logits.double(), -1)[0].flip(0).cumsum(0)
    assert int(torch.isfinite(result).sum()) == int((probabilities < 0.9).sum()) + 1


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=700),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.3, 0.85, 1.0, 2.0]),
)
def test_a_draw_is_the_inverse_of_the_distribution_function(logits: list[float], u: float, temperature: float) -> None:
    drawn = draw(torch.tensor([logits]), torch.tensor([u], dtype=torch.float64), temperature=temperature)
    token = int(drawn.tokens_N)
    weights = np.exp(np.array(logits, dtype=np.float64) / temperature)
    below, upto = weights[:token].sum() / weights.sum(), weights[: token + 1].sum() / weights.sum()
    assert below - 1e-5 <= u <= upto + 1e-5
    assert float(drawn.sampling_logprobs_N) == pytest.approx(math.log(weights[token] / weights.sum()), abs=1e-4)
    raw = np.exp(np.array(logits, dtype=np.float64))
    assert float(drawn.logprobs_N) == pytest.approx(math.log(raw[token] / raw.sum()), abs=1e-4)


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(u: float) -> None:
    logits = torch.full((1, 1000), -math.inf)
    logits[0, 300], logits[0, 301] = 0.0, -50.0
    drawn = draw(logits, torch.tensor([u], dtype=torch.float64), temperature=1.0)
    assert int(drawn.tokens_N) in {300, 301}
    assert bool(drawn.valid_N)


def test_banned_tokens_are_not_drawn_and_leave_the_raw_log_probability_alone() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    drawn = draw(logits, torch.tensor([0.0]), temperature=1.0, banned=torch.tensor([0]))
    assert int(drawn.tokens_N) == 1
    total = math.exp(2) + math.e + 1
    assert float(drawn.logprobs_N) == pytest.approx(1 - math.log(total))
    assert float(drawn.sampling_logprobs_N) == pytest.approx(1 - math.log(math.e + 1))


def test_temperature_zero_takes_the_likeliest_with_certainty() -> None:
    drawn = draw(torch.tensor([[0.0, 3.0, 1.0]] * 2), torch.tensor([0.0, 0.99]), temperature=0)
    assert drawn.tokens_N.tolist() == [1, 1]
    assert drawn.sampling_logprobs_N.tolist() == [0.0, 0.0]
    assert drawn.logprobs_N[0] == pytest.approx(3 - math.log(1 + math.exp(3) + math.e))


def test_logits_that_are_not_finite_are_told_and_do_not_touch_other_rows() -> None:
    logits = torch.tensor([[0.0, math.nan], [0.0, math.inf], [5.0, -5.0]])
    drawn = draw(logits, torch.tensor([0.1, 0.1, 0.1]), temperature=1.0)
    assert drawn.valid_N.tolist() == [False, False, True]
    assert int(drawn.tokens_N[2]) == 0


def test_uniform_numbers_give_back_the_distribution() -> None:
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    drawn = draw(torch.tensor(LOGITS).expand(10_000, 4), uniforms, temperature=1.0)
    assert torch.bincount(drawn.tokens_N, minlength=4).tolist() == pytest.approx([1000, 4000, 2000, 3000], abs=1)


@pytest.mark.parametrize("temperature", [0.0, 0.85])
def test_rows_drawn_together_do_not_touch_each_other(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes a whole batch at once, a CPU a few rows: the same tokens."""
    generator = torch.Generator().manual_seed(1)
    logits_NV, uniforms_N = torch.randn(40, 700, generator=generator), torch.rand(40, generator=generator)
    drawn = []
    for rows in (1, 16, 1024):
        monkeypatch.setattr(distribution, "ROWS", rows)
        drawn.append(draw(logits_NV, uniforms_N, temperature=temperature, top_p=0.9))
    for other in drawn[1:]:
        assert torch.equal(other.tokens_N, drawn[0].tokens_N)
        assert torch.allclose(other.sampling_logprobs_N, drawn[0].sampling_logprobs_N, atol=1e-6)
