"""What must hold for every selection, tried on drawn examples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raft_core.selection.all_best import AllBest
from raft_core.selection.base import Candidates, Selector, ranking, select
from raft_core.selection.best_of_k import BestOfK
from raft_core.selection.best_then_top import BestThenTop
from raft_core.selection.threshold import Threshold
from raft_core.selection.top_fraction import TopFraction
from raft_core.types import content_id

CONFIGS = [
    BestOfK(),
    TopFraction(),
    TopFraction(fraction=0.3),
    BestThenTop(fraction=0.5),
    AllBest(success=-100),
    Threshold(threshold=0),
]

rewards = st.integers(-5, 5)
groups = st.lists(st.lists(rewards, min_size=1, max_size=6), min_size=1, max_size=6)
"""Whole numbers, so that ties are common and affine maps by powers of two are exact."""


def build(groups: list[list[int]], scale: list[int] | None = None, shift: list[int] | None = None) -> Candidates:
    rows = [
        (x, r * 2.0 ** (scale[x] if scale else 0) + (shift[x] if shift else 0), content_id(x, k))
        for x, group in enumerate(groups)
        for k, r in enumerate(group)
    ]
    return Candidates(*(np.array(column) for column in zip(*rows, strict=True)))


def kept_ids(candidates: Candidates, config: Selector, k: int = 4) -> list[str]:
    return candidates.sample_ids_N[select(candidates, config, k).indices_M].tolist()


@given(groups, st.data())
def test_best_of_k_ignores_a_positive_affine_map_of_each_prompt(groups: list[list[int]], data: st.DataObject) -> None:
    per_prompt = st.lists(st.integers(-3, 3), min_size=len(groups), max_size=len(groups))
    mapped = build(groups, scale=data.draw(per_prompt), shift=data.draw(per_prompt))
    assert kept_ids(mapped, BestOfK()) == kept_ids(build(groups), BestOfK())


def test_top_fraction_does_not() -> None:
    rows = [[1, 2], [3, 4]]
    assert kept_ids(build(rows), TopFraction(), 2) == [content_id(1, 1), content_id(1, 0)]
    assert kept_ids(build(rows, shift=[10, 0]), TopFraction(), 2) == [content_id(0, 1), content_id(0, 0)]


@given(st.lists(rewards, min_size=1, max_size=20))
def test_one_sample_a_prompt_is_kept_as_it_is(column: list[int]) -> None:
    candidates = build([[r] for r in column])
    assert select(candidates, BestOfK(), 1).indices_M.tolist() == list(range(len(column)))


@given(groups)
def test_more_candidates_never_lower_the_selected_reward(groups: list[list[int]]) -> None:
    fewer = build([group[: max(1, len(group) // 2)] for group in groups])
    more = build(groups)
    best_fewer, best_more = (c.rewards_N[select(c, BestOfK(), 4).indices_M] for c in (fewer, more))
    assert (best_more >= best_fewer).all()


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@given(groups=groups, data=st.data())
def test_the_order_of_work_changes_nothing(config: Selector, groups: list[list[int]], data: st.DataObject) -> None:
    rows = build(groups)
    order = np.array(data.draw(st.permutations(range(len(rows.rewards_N)))))
    shuffled = Candidates(rows.prompts_N[order], rows.rewards_N[order], rows.sample_ids_N[order])
    assert kept_ids(shuffled, config) == kept_ids(rows, config)


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
@given(groups=groups)
def test_kept_samples_are_in_order_and_come_once(config: Selector, groups: list[list[int]]) -> None:
    rows = build(groups)
    kept = select(rows, config, 4).indices_M
    place = {index: position for position, index in enumerate(ranking(rows).tolist())}
    places = [place[index] for index in kept.tolist()]
    assert places == sorted(set(places))


@given(groups, st.floats(0.01, 1.0))
def test_top_fraction_keeps_nothing_worse_than_what_it_leaves(groups: list[list[int]], fraction: float) -> None:
    rows = build(groups)
    kept = select(rows, TopFraction(fraction=fraction), 4).indices_M
    left = np.setdiff1d(np.arange(len(rows.rewards_N)), kept)
    assert len(kept) >= 1
    assert not len(left) or rows.rewards_N[kept].min() >= rows.rewards_N[left].max()


@given(groups)
def test_all_best_holds_best_of_k_and_only_its_equals(groups: list[list[int]]) -> None:
    rows = build(groups)
    best = select(rows, BestOfK(), 4).indices_M
    every = select(rows, AllBest(success=-100), 4).indices_M
    assert set(best.tolist()) <= set(every.tolist())
    by_prompt = dict(zip(rows.prompts_N[best].tolist(), rows.rewards_N[best].tolist(), strict=True))
    assert all(rows.rewards_N[i] == by_prompt[int(rows.prompts_N[i])] for i in every)
