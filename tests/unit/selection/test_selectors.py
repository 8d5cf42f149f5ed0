"""Each selector on numbers worked out by hand."""

import time

import numpy as np
import pytest

from raft_core.config import (
    AllBestConfig,
    BestOfKConfig,
    BestThenTopConfig,
    SelectionConfig,
    ThresholdConfig,
    TopFractionConfig,
)
from raft_core.selection.base import SELECTORS, Candidates, num_kept, select


def candidates(*groups: list[float]) -> Candidates:
    """Prompt 0, 1, … with these rewards; sample ids rise with the position."""
    sizes = [len(group) for group in groups]
    rewards = np.array([r for group in groups for r in group], dtype=np.float64)
    ids = np.array([f"{i:032d}" for i in range(len(rewards))], dtype=np.str_)
    return Candidates(np.repeat(np.arange(len(groups)), sizes), rewards, ids)


THREE = candidates([0.1, 0.9, 0.5, 0.9], [3.0, 2.0, 1.0, 4.0], [-1.0, -2.0, -3.0, -4.0])


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (BestOfKConfig(), [1, 7, 8]),  # 0.9 is reached twice: the smaller id wins
        (TopFractionConfig(), [7, 4, 5]),  # 12 / K = 3 of the pool: 4, 3 and 2, all of prompt 1
        (TopFractionConfig(fraction=0.5), [1, 3, 7, 4, 5, 6]),
        (TopFractionConfig(fraction=1.0), [1, 3, 2, 0, 7, 4, 5, 6, 8, 9, 10, 11]),
        (BestThenTopConfig(fraction=0.67), [1, 7]),  # bests 0.9, 4, −1: two of three stay
        (BestThenTopConfig(fraction=1.0), [1, 7, 8]),
        (BestThenTopConfig(fraction=0.1), [7]),
        (AllBestConfig(), [1, 3, 7]),
        (AllBestConfig(success=-5.0), [1, 3, 7, 8]),
        (AllBestConfig(success=4.0), []),  # the maximum must be above
        (ThresholdConfig(threshold=0.9), [1, 3, 7, 4, 5, 6]),
        (ThresholdConfig(threshold=9.0), []),
    ],
)
def test_kept_indices(config: SelectionConfig, kept: list[int]) -> None:
    assert select(THREE, config, 4).tolist() == kept


def test_verifiable_rewards_of_the_worked_example() -> None:
    rows = candidates([1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0])
    assert select(rows, AllBestConfig(), 4).tolist() == [0, 2, 4, 5, 6, 7]
    assert select(rows, ThresholdConfig(threshold=1.0), 4).tolist() == [0, 2, 4, 5, 6, 7]
    assert select(rows, BestOfKConfig(), 4).tolist() == [0, 4, 8]


def test_prompts_with_fewer_candidates_are_ranked_all_the_same() -> None:
    rows = candidates([0.5], [0.1, 0.2, 0.3])
    assert select(rows, BestOfKConfig(), 3).tolist() == [0, 3]


def test_ties_across_prompts_go_by_sample_id() -> None:
    rows = Candidates(np.array([0, 1, 2]), np.ones(3), np.array(["c", "a", "b"]))
    assert select(rows, TopFractionConfig(), 2).tolist() == [1]
    assert select(rows, BestThenTopConfig(fraction=0.7), 1).tolist() == [1, 2]


@pytest.mark.parametrize("kind", sorted(SELECTORS))
def test_nothing_comes_of_nothing(kind: str) -> None:
    empty = Candidates(np.array([], dtype=np.int64), np.array([]), np.array([], dtype=np.str_))
    config = {
        "best_of_k": BestOfKConfig(),
        "top_fraction": TopFractionConfig(),
        "best_then_top": BestThenTopConfig(),
        "all_best": AllBestConfig(),
        "threshold": ThresholdConfig(threshold=0.0),
    }[kind]
    assert select(empty, config, 4).tolist() == []


@pytest.mark.parametrize("reward", [np.nan, np.inf, -np.inf])
def test_a_reward_that_is_no_number_is_refused(reward: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        candidates([0.0, reward])


def test_arrays_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts, 1 rewards and 2 sample ids"):
        Candidates(np.array([0, 1]), np.array([1.0]), np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("num", "fraction", "kept"),
    [(0, 0.5, 0), (1, 0.01, 1), (100, 0.29, 29), (30, 0.1, 3), (10, 0.8, 8), (7, 1 / 7, 1), (9, 0.5, 4), (5, 1.0, 5)],
)
def test_share_kept_of_a_pool(num: int, fraction: float, kept: int) -> None:
    assert num_kept(num, fraction) == kept


def test_many_samples_take_no_time() -> None:
    rng = np.random.default_rng(0)
    num, k = 200_000, 8
    ids = np.char.mod("%032d", rng.permutation(num))
    rows = Candidates(np.repeat(np.arange(num // k), k), rng.normal(size=num), ids)
    start = time.process_time()
    kept = select(rows, TopFractionConfig(), k)
    assert len(kept) == num // k
    assert time.process_time() - start < 2
