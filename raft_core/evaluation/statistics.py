"""Means with bootstrap confidence intervals, and paired gains. Every random number comes from a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

CHUNK_DRAWS = 1 << 22
"""Resampled values in memory at once."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its two-sided confidence interval. Bounds are None for fewer than two values."""

    mean: float | None
    low: float | None
    high: float | None


NOTHING = Interval(None, None, None)


def bootstrap_mean(values: Sequence[float], *, resamples: int, confidence: float, seed: int) -> Interval:
    """The mean of ``values`` and its bias-corrected and accelerated (BCa) bootstrap interval.

    Efron, "Better Bootstrap Confidence Intervals", JASA 82 (1987). The acceleration of a mean is
    known in closed form: the sum of cubed deviations / (6 · (sum of squared deviations)^1.5).
    Equal values give an interval of width 0.
    """
    x_N = np.asarray(values, dtype=np.float64)
    if not len(x_N):
        return NOTHING
    mean = float(x_N.mean())
    if len(x_N) == 1:
        return Interval(mean, None, None)
    if x_N.min() == x_N.max():
        return Interval(mean, mean, mean)
    deviations_N = (x_N - mean) / np.abs(x_N - mean).max()
    means_R = _resampled_means(x_N, resamples, seed)
    below = float(((means_R < mean).mean() + (means_R <= mean).mean()) / 2)
    normal = NormalDist()
    bias = normal.inv_cdf(min(max(below, 0.5 / resamples), 1 - 0.5 / resamples))
    acceleration = float((deviations_N**3).sum() / (6 * (deviations_N**2).sum() ** 1.5))
    levels = []
    for tail in ((1 - confidence) / 2, (1 + confidence) / 2):
        shifted = bias + normal.inv_cdf(tail)
        scale = 1 - acceleration * shifted
        levels.append(normal.cdf(bias + shifted / scale) if scale > 0 else tail)
    low, high = np.quantile(means_R, levels)
    return Interval(mean, float(low), float(high))


def paired_gain(
    now: Mapping[str, float | None], then: Mapping[str, float | None], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Mean of ``now − then`` over the keys (prompt ids) that have a value in both, with its interval.

    The same prompts are compared, so the spread between prompts cancels out.
    """
    differences = [
        value - before
        for key, value in sorted(now.items())
        if value is not None and (before := then.get(key)) is not None
    ]
    return bootstrap_mean(differences, resamples=resamples, confidence=confidence, seed=seed)


def _resampled_means(x_N: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.Generator(np.random.PCG64(seed))
    means_R = np.empty(resamples)
    step = max(1, CHUNK_DRAWS // len(x_N))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means_R[start : start + rows] = x_N[generator.integers(0, len(x_N), (rows, len(x_N)))].mean(axis=1)
    return means_R
