"""Each selector on numbers worked out by hand."""

import time
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from raft_core.errors import StepError
from raft_core.selection.all_best import AllBest
from raft_core.selection.base import Candidates, Selection, Selector, num_kept, passes, select, tells_apart
from raft_core.selection.best_of_k import BestOfK
from raft_core.selection.best_then_top import BestThenTop
from raft_core.selection.registry import SELECTORS
from raft_core.selection.threshold import Threshold
from raft_core.selection.top_fraction import TopFraction


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
        (BestOfK(), [1, 7, 8]),  # 0.9 is reached twice: the smaller id wins
        (TopFraction(), [7, 4, 5]),  # 12 / K = 3 of the pool: 4, 3 and 2, all of prompt 1
        (TopFraction(fraction=0.5), [1, 3, 7, 4, 5, 6]),
        (TopFraction(fraction=1.0), [1, 3, 2, 0, 7, 4, 5, 6, 8, 9, 10, 11]),
        (BestThenTop(fraction=0.67), [1, 7]),  # bests 0.9, 4, −1: two of three stay
        (BestThenTop(fraction=1.0), [1, 7, 8]),
        (BestThenTop(fraction=0.1), [7]),
        (AllBest(), [1, 3, 7]),
        (AllBest(success=-5.0), [1, 3, 7, 8]),
        (AllBest(success=4.0), []),  # the maximum must be above
        (Threshold(threshold=0.9), [1, 3, 7, 4, 5, 6]),
        (Threshold(threshold=9.0), []),
    ],
)
def test_kept_indices(config: Selector, kept: list[int]) -> None:
    assert select(THREE, config, 4).indices_M.tolist() == kept


def test_verifiable_rewards_of_the_worked_example() -> None:
    rows = candidates([1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0])
    assert select(rows, AllBest(), 4).indices_M.tolist() == [0, 2, 4, 5, 6, 7]
    assert select(rows, Threshold(threshold=1.0), 4).indices_M.tolist() == [0, 2, 4, 5, 6, 7]
    assert select(rows, BestOfK(), 4).indices_M.tolist() == [0, 4, 8]


def test_prompts_with_fewer_candidates_are_ranked_all_the_same() -> None:
    rows = candidates([0.5], [0.1, 0.2, 0.3])
    assert select(rows, BestOfK(), 3).indices_M.tolist() == [0, 3]


def test_ties_across_prompts_go_by_sample_id() -> None:
    rows = Candidates(np.array([0, 1, 2]), np.ones(3), np.array(["c", "a", "b"]))
    assert select(rows, TopFraction(), 2).indices_M.tolist() == [1]
    assert select(rows, BestThenTop(fraction=0.7), 1).indices_M.tolist() == [1, 2]


@pytest.mark.parametrize("kind", sorted(SELECTORS.own))
def test_nothing_comes_of_nothing(kind: str) -> None:
    empty = Candidates(np.array([], dtype=np.int64), np.array([]), np.array([], dtype=np.str_))
    config = {
        "best_of_k": BestOfK(),
        "top_fraction": TopFraction(),
        "best_then_top": BestThenTop(),
        "all_best": AllBest(),
        "threshold": Threshold(threshold=0.0),
    }[kind]
    assert select(empty, config, 4).indices_M.tolist() == []


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
    kept = select(rows, TopFraction(), k).indices_M
    assert len(kept) == num // k
    assert time.process_time() - start < 2


class Broken(Selector):
    """Somebody's selector that returns or raises ``answer``."""

    type: Literal["broken"] = "broken"
    answer: ClassVar[Any] = None

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """What a test set."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]

    def tells_apart(self, prompts_N: Any, rewards_N: Any) -> Any:
        """The same."""
        return self.answer

    passes = tells_apart  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "NoneType, not a Selection"),
        (np.array([True, False]), "not a Selection"),
        (Selection.plain(np.array([True, False])), "of type bool"),
        (Selection.plain(np.array([0.0, 1.0])), "of type float64"),
        (Selection.plain(np.array([0, 0])), "the same candidate twice"),
        (Selection.plain(np.array([7])), "outside the 2 candidates"),
        (Selection(np.array([0, 1]), np.array([1.0, np.nan])), "finite number above 0"),
        (Selection(np.array([0]), np.array(["1"])), "finite number above 0"),
        (Selection(np.array([0, 1]), np.ones(3)), "weights of shape (3,)"),
        (KeyError("mine"), "KeyError: 'mine'"),
    ],
)
def test_a_fault_of_a_selector_names_it(monkeypatch: pytest.MonkeyPatch, answer: Any, why: str) -> None:
    candidates = Candidates(np.array([0, 0]), np.array([0.5, 1.0]), np.array(["a", "b"]))
    monkeypatch.setattr(Broken, "answer", answer)
    with pytest.raises(StepError) as caught:
        select(candidates, Broken(), 2)
    assert "broken" in caught.value.what
    assert why in str(caught.value.got)
    assert f"{__name__}.Broken" in str(caught.value.hint)


@pytest.mark.parametrize("answer", [np.ones(2), np.array([True]), np.array([[True, False]])])
def test_a_mask_of_another_shape_or_type_is_refused(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    monkeypatch.setattr(Broken, "answer", answer)
    for ask in (lambda: tells_apart(Broken(), np.array([0, 0]), np.ones(2)), lambda: passes(Broken(), np.ones(2))):
        with pytest.raises(StepError, match="broken"):
            ask()
