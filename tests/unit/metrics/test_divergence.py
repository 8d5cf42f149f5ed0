"""KL, its bound, perplexity and entropy by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.metrics.divergence import WORST, kl_bound, kl_to_base, token_entropy
from raft_core.metrics.perplexity import perplexity
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.types import Prompt


def test_kl_is_the_mean_over_sequences_of_summed_log_ratios() -> None:
    # Sequence sums: (−1 + 2) + (−2 + 2.5) = 1.5; 0 without tokens; −0.5 + 0.25 = −0.25.
    got = kl_to_base([[-1.0, -2.0], [], [-0.5]], [[-2.0, -2.5], [], [-0.25]])
    assert got == pytest.approx((1.5 + 0 - 0.25) / 3)


def test_the_initial_policy_has_no_divergence() -> None:
    assert kl_to_base([[-1.0, -2.0]], [[-1.0, -2.0]]) == 0


def test_lists_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        kl_to_base([[-1.0, -2.0]], [[-1.0]])
    with pytest.raises(ValueError, match="zip"):
        kl_to_base([[-1.0], [-1.0]], [[-1.0]])


def test_diverged_weights_are_the_worst_not_missing() -> None:
    assert kl_to_base([[-1.0]], [[-math.inf]]) == WORST
    assert kl_to_base([[math.nan]], [[-1.0]]) == WORST
    assert perplexity([[math.nan, -1.0]]) == WORST
    assert perplexity([[-math.inf]]) == WORST
    assert perplexity([[-1e9]]) == WORST
    assert token_entropy([[math.nan]]) is None


def test_nothing_has_no_measure() -> None:
    assert kl_to_base([], []) is None
    assert perplexity([]) is None
    assert perplexity([[], []]) is None
    assert token_entropy([[]]) is None


def test_perplexity_weighs_tokens_not_texts() -> None:
    assert perplexity([[math.log(0.5)] * 3, [math.log(0.125)]]) == pytest.approx(2 ** ((1 + 1 + 1 + 3) / 4))


def test_token_entropy_of_a_fair_coin() -> None:
    assert token_entropy([[math.log(0.5)] * 4, [math.log(0.5)]]) == pytest.approx(math.log(2))
    assert token_entropy([[0.0, 0.0]]) == 0


def test_bound_of_one_iteration() -> None:
    assert kl_bound(8, 1) == pytest.approx(math.log(8) - 7 / 8)
    assert kl_bound(8, 0) == 0
    assert kl_bound(1, 5) == 0


def test_two_iterations_of_best_of_k_are_one_of_k_squared() -> None:
    assert kl_bound(4, 2) == pytest.approx(kl_bound(16, 1))
    assert kl_bound(4, 2) > 2 * kl_bound(4, 1)


@given(
    weights=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8),
    rewards=st.lists(st.integers(0, 4), min_size=8, max_size=8),
    k=st.integers(1, 16),
    iterations=st.integers(1, 3),
)
def test_best_of_k_never_goes_beyond_the_bound(
    weights: list[float], rewards: list[int], k: int, iterations: int
) -> None:
    row = np.array([weights]) / sum(weights)
    start = TabularPolicy((Prompt.of("x"),), tuple(map(str, range(len(weights)))), row)
    table = np.array([rewards[: len(weights)]], dtype=np.float64)
    policy = start
    for _ in range(iterations):
        policy = policy.moved_to(policy.best_of_k(table, k))
    assert policy.kl(start) <= kl_bound(k, iterations) + 1e-9
