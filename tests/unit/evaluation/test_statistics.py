"""Intervals: how often they cover the true mean, against SciPy's, and in the corners."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.evaluation.statistics import (
    NOTHING,
    Interval,
    jackknife,
    mean_interval,
    paired_gain,
    ratio_interval,
    wilson,
)

Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
FIGURES: dict[str, tuple[float, Draw]] = {
    "normal": (0.0, lambda rng, shape: rng.normal(size=shape)),
    "uniform": (0.5, lambda rng, shape: rng.random(shape)),
    "exponential": (1.0, lambda rng, shape: rng.exponential(size=shape)),
    "lognormal": (math.exp(0.5), lambda rng, shape: rng.lognormal(size=shape)),
    "heavy": (0.0, lambda rng, shape: rng.standard_t(3, shape)),
    "even": (0.5, lambda rng, shape: (rng.random(shape) < 0.5).astype(float)),
    "rare": (0.95, lambda rng, shape: (rng.random(shape) < 0.95).astype(float)),
    "gains": (0.1, lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], shape, p=[0.05, 0.8, 0.15])),
}
"""What rewards, their gains, and shares may look like: true mean, and how to draw."""


def coverage(name: str, num: int, samples: int = 1500) -> float:
    """Share of samples of ``num`` values whose interval of 95 % holds the true mean."""
    true, draw = FIGURES[name]
    found = [mean_interval(row, confidence=0.95) for row in draw(np.random.default_rng(5), (samples, num)).tolist()]
    return sum(low <= true <= high for _, low, high in map(bounds, found)) / samples


def bounds(found: Interval) -> tuple[float, float, float]:
    assert found.mean is not None
    assert found.low is not None
    assert found.high is not None
    return found.mean, found.low, found.high


@pytest.mark.parametrize("num", [HOLDS_FROM, 128, 256])
@pytest.mark.parametrize("name", FIGURES)
def test_an_interval_holds_from_64_values_on(name: str, num: int) -> None:
    assert coverage(name, num) >= 0.93


@pytest.mark.parametrize("name", [name for name in FIGURES if name != "rare"])
def test_an_interval_of_32_values_holds_unless_most_samples_are_alike(name: str) -> None:
    assert coverage(name, 32) >= 0.93
    assert coverage(name, 16) >= 0.90


def test_below_64_values_no_interval_sees_what_is_rare() -> None:
    """32 values of which 1 in 20 differs are all equal in 19 % of the samples: that is why fewer do not promote."""
    assert coverage("rare", 32) < 0.85


@pytest.mark.parametrize("name", FIGURES)
def test_it_is_not_wider_than_it_must_be(name: str) -> None:
    values = FIGURES[name][1](np.random.default_rng(9), (1, 4096))[0]
    found = mean_interval(values.tolist(), confidence=0.95)
    expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert bounds(found)[1:] == pytest.approx(expected, abs=0.07 * (expected[1] - expected[0]))


def test_without_skewness_it_is_students() -> None:
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0] * 4)
    expected = stats.t.interval(0.9, 19, loc=0.0, scale=stats.sem(values))
    assert bounds(mean_interval(values.tolist(), confidence=0.9))[1:] == pytest.approx(expected)


def test_a_long_tail_reaches_further_on_its_side() -> None:
    """Hall's bound of n = 4, g = 1.1547 by hand; on the other side Student's is the outer one."""
    found = bounds(mean_interval([0.0, 0.0, 0.0, 1.0], confidence=0.95))
    u, g, spread = stats.t.ppf(0.975, 3) / 2, 2 / math.sqrt(3), 0.5
    inner = 1 + g * (-u - g / 24)
    assert found[1] == pytest.approx(0.25 - spread * u)
    assert found[2] == pytest.approx(0.25 - spread * 3 / g * (math.cbrt(inner) - 1))
    assert found[2] - 0.25 > 0.25 - found[1]


def test_corners() -> None:
    assert mean_interval([], confidence=0.95) == NOTHING
    assert mean_interval([2.0], confidence=0.95) == Interval(2.0, None, None)
    assert mean_interval([0.5, 0.5, 0.5], confidence=0.95) == Interval(0.5, 0.5, 0.5)
    assert mean_interval([0.1] * 10, confidence=0.95).low == pytest.approx(0.1)


@given(st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=30))
def test_bounds_are_ordered_numbers(values: list[float]) -> None:
    values = [value / len(values) for value in values]  # so that their sum is a number
    mean, low, high = bounds(mean_interval(values, confidence=0.95))
    slack = 1e-9 * max(map(abs, values))
    assert low - slack <= mean <= high + slack


def test_paired_gain_is_of_the_prompts_that_both_have() -> None:
    now = {"a": 1.0, "b": 3.0, "c": None, "d": 9.0}
    then = {"b": 1.0, "a": 0.0, "c": 5.0, "d": None, "e": 1.0}
    got = paired_gain(now, then, confidence=0.95)
    assert got.mean == pytest.approx((1 + 2) / 2)


def test_paired_gain_is_sharper_than_two_intervals() -> None:
    spread = {str(i): float(i) for i in range(50)}
    gain = paired_gain({k: v + 0.1 for k, v in spread.items()}, spread, confidence=0.95)
    assert gain.low == pytest.approx(0.1)
    assert gain.high == pytest.approx(0.1)
    assert paired_gain({"a": 1.0}, {"b": 1.0}, confidence=0.95) == NOTHING


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
    found = bounds(ratio_interval([1.0, 12.0, 30.0], [1.0, 5.0, 10.0], confidence=0.95))
    assert found[0] == pytest.approx(43 / 16)  # the mean of the ratios would be 2.13
    assert found[1] < found[0] < found[2]


def test_a_ratios_interval_holds() -> None:
    rng, inside = np.random.default_rng(11), 0
    for _ in range(1000):
        lengths = rng.integers(5, 200, 64).astype(float)
        added = lengths * 0.02 + rng.exponential(size=64) * np.sqrt(lengths) - np.sqrt(lengths)
        _, low, high = bounds(ratio_interval(added.tolist(), lengths.tolist(), confidence=0.95))
        inside += low <= 0.02 <= high
    assert inside / 1000 >= 0.93


def test_a_ratio_of_pairs_in_one_proportion_has_no_spread() -> None:
    found = ratio_interval([2.0, 4.0, 10.0], [1.0, 2.0, 5.0], confidence=0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_a_ratio_of_one_text_has_no_interval() -> None:
    assert ratio_interval([3.0], [2.0], confidence=0.95) == Interval(1.5, None, None)
    assert ratio_interval([], [], confidence=0.95) == NOTHING


def test_a_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.array([0.5, 1.0, 4.0, 2.0, 2.5, 3.0])
    left_out = [(values.sum() - value) / 5 for value in values]
    expected = stats.t.interval(0.95, 5, loc=values.mean(), scale=stats.sem(values))
    assert bounds(jackknife(float(values.mean()), left_out, confidence=0.95))[1:] == pytest.approx(expected)
