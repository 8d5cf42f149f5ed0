"""Algorithm 1 on the tabular policy: what it must do is known in closed form."""

import math
from itertools import product

import numpy as np
import pytest

from raft_core.algorithm import raft
from raft_core.config.sampling import SamplingConfig
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.selection.all_best import AllBest
from raft_core.selection.base import Candidates, Selector, select
from raft_core.selection.best_of_k import BestOfK
from raft_core.selection.threshold import Threshold
from raft_core.types import Prompt

PROMPTS = tuple(Prompt.of(f"prompt {i}") for i in range(4))
WORDS = ("awful", "poor", "fine", "great")
SCORES = {"awful": -1.0, "poor": 0.0, "fine": 0.0, "great": 1.0}
REWARDS_XY = np.array([[SCORES[word] for word in WORDS]] * 4)
START = TabularPolicy(PROMPTS, WORDS, np.array([[0.4, 0.3, 0.2, 0.1]] * 4))


def run(
    policy: TabularPolicy, iterations: int, k: int, selector: Selector | None = None, seed: int = 0
) -> list[TabularPolicy]:
    sampling = SamplingConfig(prompts_per_iteration=4, samples_per_prompt=k)
    return list(
        raft(
            policy,
            PROMPTS,
            lambda _, y: SCORES[y],
            iterations=iterations,
            sampling=sampling,
            selector=selector or BestOfK(),
            seed=seed,
        )
    )


def test_one_iteration_is_best_of_k_in_closed_form() -> None:
    """The mean fitted table over many seeds is the exact distribution of best-of-K."""
    seeds = 400
    mean_XY = sum(run(START, 1, 4, seed=seed)[0].probabilities_XY for seed in range(seeds)) / seeds
    error = 4 * math.sqrt(0.25 / (seeds * 4))
    assert mean_XY.mean(axis=0) == pytest.approx(START.best_of_k(REWARDS_XY, 4)[0], abs=error)


def test_iterations_climb_to_the_best_completion() -> None:
    gentle = TabularPolicy(PROMPTS, WORDS, START.probabilities_XY, step=0.1)
    rewards = [policy.expected_reward(REWARDS_XY) for policy in run(gentle, 60, 16)]
    assert START.expected_reward(REWARDS_XY) == pytest.approx(-0.3)
    assert rewards[-1] > 0.9


def test_one_sample_a_prompt_copies_what_was_sampled() -> None:
    (fitted,) = run(START, 1, 1)
    assert sorted(fitted.probabilities_XY.ravel().tolist()) == [0.0] * 12 + [1.0] * 4


def test_the_same_seed_gives_the_same_bytes_and_another_does_not() -> None:
    first, again, other = (run(START, 3, 4, seed=seed)[-1].probabilities_XY.tobytes() for seed in (1, 1, 2))
    assert first == again != other


def test_a_shorter_run_is_the_beginning_of_a_longer_one() -> None:
    longer, shorter = run(START, 4, 3), run(START, 2, 3)
    for policy, same in zip(longer, shorter, strict=False):
        assert policy.probabilities_XY.tobytes() == same.probabilities_XY.tobytes()


def test_a_prompt_without_success_is_not_trained_on() -> None:
    (fitted,) = run(TabularPolicy.uniform(PROMPTS, WORDS), 1, 2, AllBest(success=1.0))
    assert fitted.probabilities_XY == pytest.approx(np.full((4, 4), 0.25))


def test_reward_that_is_no_number_is_refused() -> None:
    sampling = SamplingConfig(prompts_per_iteration=4, samples_per_prompt=2)
    with pytest.raises(ValueError, match="not finite"):
        next(raft(START, PROMPTS, lambda *_: math.nan, iterations=1, sampling=sampling, selector=BestOfK()))


# -- the gradient of SFT on accepted samples is REINFORCE's, divided by the acceptance rate --------

REWARDS_BK = np.array([[1.0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]])


def gradient(logits_XY: np.ndarray, weights_BK: np.ndarray, samples_BK: np.ndarray) -> np.ndarray:
    """∇ over the logits of Σ w·log p(y|x): each sample adds w·(one-hot(y) − p(x))."""
    p_XY = np.exp(logits_XY) / np.exp(logits_XY).sum(axis=1, keepdims=True)
    total_XY = np.zeros_like(logits_XY)
    for x, k in product(*map(range, weights_BK.shape)):
        total_XY[x] += weights_BK[x, k] * (np.eye(logits_XY.shape[1])[samples_BK[x, k]] - p_XY[x])
    return total_XY


@pytest.mark.parametrize("selection", [AllBest(), Threshold(threshold=1.0)])
def test_gradient_of_the_worked_example(selection: Selector) -> None:
    rng = np.random.default_rng(0)
    logits_XY, samples_BK = rng.normal(size=(3, 5)), rng.integers(0, 5, (3, 4))
    rows = Candidates(np.repeat(np.arange(3), 4), REWARDS_BK.ravel(), np.array([f"{i:02d}" for i in range(12)]))
    kept = select(rows, selection, 4).indices_M
    weights_BK = np.zeros(12)
    weights_BK[kept] = 1 / len(kept)
    weights_BK = weights_BK.reshape(3, 4)
    assert weights_BK[REWARDS_BK == 1] == pytest.approx(1 / 6)
    assert weights_BK[1].sum() == pytest.approx(4 / 6)
    assert weights_BK[2].sum() == 0
    acceptance = len(kept) / 12
    reinforce_XY = gradient(logits_XY, REWARDS_BK / 12, samples_BK)
    assert gradient(logits_XY, weights_BK, samples_BK) == pytest.approx(reinforce_XY / acceptance)


def test_the_gradient_is_that_of_the_log_likelihood() -> None:
    """The formula above against finite differences."""
    rng = np.random.default_rng(1)
    logits_XY, samples_BK = rng.normal(size=(3, 5)), rng.integers(0, 5, (3, 4))
    weights_BK = rng.uniform(size=(3, 4))

    def likelihood(logits_XY: np.ndarray) -> float:
        log_p_XY = logits_XY - np.log(np.exp(logits_XY).sum(axis=1, keepdims=True))
        return float((weights_BK * np.take_along_axis(log_p_XY, samples_BK, axis=1)).sum())

    numeric_XY = np.zeros_like(logits_XY)
    for x, y in product(range(3), range(5)):
        moved_XY = np.zeros_like(logits_XY)
        moved_XY[x, y] = 1e-6
        numeric_XY[x, y] = (likelihood(logits_XY + moved_XY) - likelihood(logits_XY - moved_XY)) / 2e-6
    assert gradient(logits_XY, weights_BK, samples_BK) == pytest.approx(numeric_XY, abs=1e-7)
