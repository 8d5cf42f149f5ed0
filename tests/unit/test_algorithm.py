"""Algorithm 1 on the tabular policy: what it must do is known in closed form."""

import math

import numpy as np
import pytest

from raft_core.algorithm import raft
from raft_core.config.sampling import SamplingConfig
from raft_core.policies.tabular.policy import TabularPolicy
from raft_core.selection.all_best import AllBest
from raft_core.selection.base import Selector
from raft_core.selection.best_of_k import BestOfK
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
    for policy, same in zip(longer[:2], shorter, strict=True):
        assert policy.probabilities_XY.tobytes() == same.probabilities_XY.tobytes()


def test_a_prompt_without_success_is_not_trained_on() -> None:
    (fitted,) = run(TabularPolicy.uniform(PROMPTS, WORDS), 1, 2, AllBest(success=1.0))
    assert fitted.probabilities_XY == pytest.approx(np.full((4, 4), 0.25))


def test_reward_that_is_no_number_is_refused() -> None:
    sampling = SamplingConfig(prompts_per_iteration=4, samples_per_prompt=2)
    with pytest.raises(ValueError, match="not finite"):
        next(raft(START, PROMPTS, lambda *_: math.nan, iterations=1, sampling=sampling, selector=BestOfK()))
