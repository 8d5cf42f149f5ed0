"""Means with bootstrap confidence intervals, and paired gains. Every random number comes from a seed."""

import math
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


def bootstrap_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Sum of ``numerators`` / sum of ``denominators`` (all above 0) and its percentile bootstrap interval.

    The pairs are resampled together: one pair a text, for figures that weigh long texts more.
    """
    above_N, below_N = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    if not len(below_N):
        return NOTHING
    ratio = float(above_N.sum() / below_N.sum())
    if len(below_N) == 1:
        return Interval(ratio, None, None)
    ratios_R = _resampled_means(above_N, resamples, seed) / _resampled_means(below_N, resamples, seed)
    low, high = np.quantile(ratios_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(ratio, float(low), float(high))


def jackknife(estimate: float, left_out: Sequence[float], *, confidence: float) -> Interval:
    """``estimate`` ± z · its jackknife error, from the estimates with one observation left out each.

    Efron and Tibshirani, "An Introduction to the Bootstrap", ch. 11. For counts of different things,
    where a bootstrap's repeated observations would count nothing new.
    """
    values_N = np.asarray(left_out, dtype=np.float64)
    if len(values_N) < 2:
        return Interval(estimate, None, None)
    num = len(values_N)
    error = float(np.sqrt((num - 1) / num * ((values_N - values_N.mean()) ** 2).sum()))
    reach = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Interval(estimate, estimate - reach, estimate + reach)


def wilson(passed: float, total: int, *, confidence: float) -> Interval:
    """The share ``passed / total`` and its score interval, honest also where all or none pass.

    Wilson, "Probable Inference…", JASA 22 (1927). Trials are taken as independent. A trial may pass in part (a share of
    its answers): a mean of values from 0 to 1 varies at most as much as one of zeros and ones, so the interval is wide
    enough.
    """
    if not total:
        return NOTHING
    z, share = NormalDist().inv_cdf((1 + confidence) / 2), passed / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def _resampled_means(x_N: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    generator = np.random.Generator(np.random.PCG64(seed))
    means_R = np.empty(resamples)
    step = max(1, CHUNK_DRAWS // len(x_N))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        means_R[start : start + rows] = x_N[generator.integers(0, len(x_N), (rows, len(x_N)))].mean(axis=1)
    return means_R
