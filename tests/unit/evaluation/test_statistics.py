"""Bootstrap intervals against SciPy's, and in the corners."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raft_core.evaluation import statistics
from raft_core.evaluation.statistics import NOTHING, Interval, bootstrap_mean, bootstrap_ratio, paired_gain, wilson

PLAN = {"resamples": 2000, "confidence": 0.95, "seed": 7}


@pytest.mark.parametrize("skew", ["none", "some", "much"])
def test_interval_is_scipys_bca(skew: str) -> None:
    rng = np.random.default_rng(3)
    values = {
        "none": rng.normal(1.0, 2.0, size=60), "some": rng.exponential(size=60), "much": rng.exponential(size=9) ** 2,
    }[skew]  # fmt: skip
    got = bootstrap_mean(values.tolist(), resamples=20_000, confidence=0.9, seed=1)
    expected = stats.bootstrap(
        (values,), np.mean, confidence_level=0.9, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    assert got.mean == pytest.approx(values.mean())
    width = expected.high - expected.low
    assert got.low == pytest.approx(expected.low, abs=0.03 * width)
    assert got.high == pytest.approx(expected.high, abs=0.03 * width)


def test_interval_holds_the_true_mean_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(200):
        got = bootstrap_mean(rng.normal(size=40).tolist(), resamples=400, confidence=0.9, seed=seed)
        assert got.low is not None
        assert got.high is not None
        inside += got.low <= 0 <= got.high
    assert 0.83 <= inside / 200 <= 0.96


def test_corners() -> None:
    assert bootstrap_mean([], **PLAN) == NOTHING
    assert bootstrap_mean([2.0], **PLAN) == Interval(2.0, None, None)
    assert bootstrap_mean([0.5, 0.5, 0.5], **PLAN) == Interval(0.5, 0.5, 0.5)
    assert bootstrap_mean([0.1] * 10, **PLAN).low == pytest.approx(0.1)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_bounds_are_ordered_numbers_within_the_values(values: list[float]) -> None:
    got = bootstrap_mean(values, resamples=100, confidence=0.95, seed=0)
    assert got.low is not None
    assert got.high is not None
    slack = 1e-9 * (1 + max(map(abs, values)))
    assert min(values) - slack <= got.low <= got.high <= max(values) + slack


def test_same_seed_same_interval_whatever_the_global_state() -> None:
    values = [0.0, 1.0, 5.0, 2.0, 3.3, 4.7, -1.9, 0.4]
    np.random.seed(1)
    first = bootstrap_mean(values, **PLAN)
    np.random.seed(2)
    assert bootstrap_mean(values, **PLAN) == first
    assert bootstrap_mean(values, resamples=2000, confidence=0.95, seed=8) != first


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [0.0, 1.0, 5.0, 2.0]
    whole = bootstrap_mean(values, **PLAN)
    monkeypatch.setattr(statistics, "CHUNK_DRAWS", 40)
    assert bootstrap_mean(values, **PLAN) == whole


def test_paired_gain_is_of_the_prompts_that_both_have() -> None:
    now = {"a": 1.0, "b": 3.0, "c": None, "d": 9.0}
    then = {"b": 1.0, "a": 0.0, "c": 5.0, "d": None, "e": 1.0}
    got = paired_gain(now, then, **PLAN)
    assert got.mean == pytest.approx((1 + 2) / 2)


def test_paired_gain_is_sharper_than_two_intervals() -> None:
    spread = {str(i): float(i) for i in range(50)}
    gain = paired_gain({k: v + 0.1 for k, v in spread.items()}, spread, **PLAN)
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)
    assert paired_gain({"a": 1.0}, {"b": 1.0}, **PLAN) == NOTHING


@pytest.mark.parametrize(
    ("passed", "low", "high"),
    [(0, 0.0, 0.2775), (5, 0.2366, 0.7634), (10, 0.7225, 1.0)],  # Wilson's interval of 10 trials, by hand
)
def test_wilson(passed: int, low: float, high: float) -> None:
    found = wilson(passed, 10, confidence=0.95)
    assert found.mean == passed / 10
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


def test_wilson_of_nothing_is_nothing() -> None:
    assert wilson(0, 0, confidence=0.95) == NOTHING


def test_a_ratio_weighs_by_its_denominators() -> None:
    found = bootstrap_ratio([1.0, 30.0], [1.0, 10.0], resamples=500, confidence=0.95, seed=1)
    assert found.mean == pytest.approx(31 / 11)  # the mean of the ratios would be 2
    assert found.low is not None
    assert found.high is not None
    assert 1.0 <= found.low < found.mean < found.high <= 3.0  # of one text alone: 1 and 3


def test_a_ratio_of_pairs_in_one_proportion_has_no_spread() -> None:
    found = bootstrap_ratio([2.0, 4.0, 10.0], [1.0, 2.0, 5.0], resamples=200, confidence=0.95, seed=3)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_of_one_text_has_no_interval() -> None:
    assert bootstrap_ratio([3.0], [2.0], resamples=10, confidence=0.95, seed=0) == Interval(1.5, None, None)
    assert bootstrap_ratio([], [], resamples=10, confidence=0.95, seed=0) == NOTHING
