"""The tabular policy against sums worked out by hand, and against its own samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.types import Prompt

X = Prompt.of("x")
COIN = TabularPolicy((X,), ("bad", "good"), np.array([[0.75, 0.25]]))
GOOD = np.array([[0.0, 1.0]])


def policy_of(weights: list[float]) -> TabularPolicy:
    row = np.array([weights]) / sum(weights)
    return TabularPolicy((X,), tuple(map(str, range(len(weights)))), row)


weights = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=6)
levels = st.lists(st.integers(0, 3), min_size=6, max_size=6)


def test_best_of_two_of_a_coin() -> None:
    # Bad is kept only if both are bad: .75² = .5625.
    assert COIN.best_of_k(GOOD, 2) == pytest.approx(np.array([[0.5625, 0.4375]]))


def test_best_of_two_of_three_levels_with_a_tie() -> None:
    # Rewards 0, 1, 1, 2 with p .1, .2, .3, .4: P(0) = .01, P(level 1) = .6² − .1² = .35, P(2) = 1 − .6² = .64.
    policy = policy_of([0.1, 0.2, 0.3, 0.4])
    kept = policy.best_of_k(np.array([[0.0, 1.0, 1.0, 2.0]]), 2)
    assert kept == pytest.approx(np.array([[0.01, 0.35 * 0.4, 0.35 * 0.6, 0.64]]))


def test_a_completion_without_probability_is_never_kept() -> None:
    policy = TabularPolicy((X,), ("a", "b", "c"), np.array([[0.5, 0.5, 0.0]]))
    assert policy.best_of_k(np.array([[0.0, 1.0, 2.0]]), 4)[0, 2] == 0


@given(weights, levels)
def test_one_sample_is_the_policy_itself(weights: list[float], levels: list[int]) -> None:
    policy = policy_of(weights)
    assert policy.best_of_k(np.array([levels[: len(weights)]], dtype=float), 1) == pytest.approx(
        policy.probabilities_XY
    )


@given(weights, levels, st.integers(1, 12))
def test_gain_of_best_of_k_is_bounded(weights: list[float], levels: list[int], k: int) -> None:
    """E[r] <= E[max_k r] <= E[r] + sqrt(B²/2 · log K)."""
    policy = policy_of(weights)
    rewards = np.array([levels[: len(weights)]], dtype=float)
    before, after = (
        policy.expected_reward(rewards),
        policy.moved_to(policy.best_of_k(rewards, k)).expected_reward(rewards),
    )
    span = rewards.max() - rewards.min()
    assert before - 1e-9 <= after <= before + math.sqrt(span**2 / 2 * math.log(k)) + 1e-9


@given(weights, levels, st.integers(1, 8))
def test_a_larger_k_never_lowers_the_reward(weights: list[float], levels: list[int], k: int) -> None:
    policy = policy_of(weights)
    rewards = np.array([levels[: len(weights)]], dtype=float)
    fewer, more = (policy.moved_to(policy.best_of_k(rewards, n)).expected_reward(rewards) for n in (k, k + 1))
    assert more >= fewer - 1e-12


def test_samples_have_the_frequencies_of_the_table() -> None:
    drawn = COIN.sample(X, 20_000, seed=5)
    assert drawn.count("good") / 20_000 == pytest.approx(0.25, abs=0.01)


def test_samples_depend_on_seed_and_prompt_alone() -> None:
    y = Prompt.of("y")
    both = TabularPolicy.uniform((X, y), tuple("abcdefgh"))
    turned = TabularPolicy.uniform((y, X), tuple("abcdefgh"))
    assert both.sample(X, 20, seed=1) == turned.sample(X, 20, seed=1)
    assert both.sample(X, 20, seed=1) != both.sample(y, 20, seed=1)
    assert both.sample(X, 20, seed=1) != both.sample(X, 20, seed=2)


def test_a_fit_is_the_frequency_and_leaves_other_prompts_alone() -> None:
    y = Prompt.of("y")
    policy = TabularPolicy.uniform((X, y), ("a", "b", "c", "d"))
    fitted = policy.fit([(X, "a"), (X, "a"), (X, "b"), (X, "c")])
    assert fitted.probabilities_XY.tolist() == [[0.5, 0.25, 0.25, 0.0], [0.25] * 4]


def test_a_step_mixes_old_and_fitted() -> None:
    policy = TabularPolicy.uniform((X,), ("a", "b"), step=0.25)
    assert policy.fit([(X, "a")]).probabilities_XY.tolist() == [[0.625, 0.375]]


def test_kl_by_hand() -> None:
    uniform = TabularPolicy.uniform((X,), ("bad", "good"))
    assert COIN.kl(uniform) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert COIN.kl(COIN) == 0
    sure = TabularPolicy((X,), ("bad", "good"), np.array([[0.0, 1.0]]))
    assert sure.kl(COIN) == pytest.approx(math.log(4))
    assert COIN.kl(sure) == math.inf


def test_expected_reward_is_the_mean_over_prompts() -> None:
    policy = TabularPolicy((X, Prompt.of("y")), ("a", "b"), np.array([[1.0, 0.0], [0.5, 0.5]]))
    assert policy.expected_reward(np.array([[1.0, 9.0], [2.0, 4.0]])) == pytest.approx((1 + 3) / 2)


@pytest.mark.parametrize("table", [[[0.5, 0.6]], [[1.5, -0.5]], [[0.5, 0.25, 0.25]], [[math.nan, 1.0]]])
def test_a_table_that_is_no_distribution_is_refused(table: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        TabularPolicy((X,), ("a", "b"), np.array(table))
