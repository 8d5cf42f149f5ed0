"""Means with confidence intervals, and paired gains. Nothing is drawn: the same values give the same interval."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its two-sided confidence interval. Bounds are None for fewer than two values."""

    mean: float | None
    low: float | None
    high: float | None


NOTHING = Interval(None, None, None)


def mean_interval(values: Sequence[float], *, confidence: float) -> Interval:
    """The mean of ``values`` and an interval that holds for skewed and for heavy-tailed values, too.

    Its bounds are the outer ones of two: Student's t, and the same with Hall's correction of skewness. Hall, "On the
    Removal of Skewness by Transformation", JRSSB 54 (1992): with skewness g, n values and u = t/√n the bound lies
    (3/g) · ((1 + g·(u − g/6n))^(1/3) − 1) standard deviations from the mean instead of u. (The bootstrap intervals BCa
    and bootstrap-t cover less often below 64 values.) Equal values give an interval of width 0.
    """
    x_N = np.asarray(values, dtype=np.float64)
    if not len(x_N):
        return NOTHING
    mean = float(x_N.mean())
    if len(x_N) == 1:
        return Interval(mean, None, None)
    if x_N.min() == x_N.max():
        return Interval(mean, mean, mean)
    down, up = _reach(x_N - mean, confidence)
    return Interval(mean, mean - down, mean + up)


def _reach(deviations_N: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """How far the interval reaches below and above the mean. ``deviations_N``: from it, not all 0."""
    num, scale = len(deviations_N), float(np.abs(deviations_N).max())
    unit_N = deviations_N / scale  # cubes of very large or small values stay numbers
    variance = float((unit_N**2).mean())
    skewness = float((unit_N**3).mean()) / variance**1.5
    spread = scale * math.sqrt(variance * num / (num - 1))
    u = _t_quantile(num, confidence) / math.sqrt(num)
    return spread * max(u, _corrected(u, skewness, num)), spread * max(u, -_corrected(-u, skewness, num))


def _corrected(u: float, skewness: float, num: int) -> float:
    if abs(skewness) < 1e-6:
        return u
    return 3 / skewness * (math.cbrt(1 + skewness * (u - skewness / (6 * num))) - 1)


def _t_quantile(num: int, confidence: float) -> float:
    return float(stdtrit(num - 1, (1 + confidence) / 2))


def paired_gain(now: Mapping[str, float | None], then: Mapping[str, float | None], *, confidence: float) -> Interval:
    """Mean of ``now − then`` over the keys (prompt ids) that have a value in both, with its interval.

    The same prompts are compared, so the spread between prompts cancels out.
    """
    differences = [
        value - before
        for key, value in sorted(now.items())
        if value is not None and (before := then.get(key)) is not None
    ]
    return mean_interval(differences, confidence=confidence)


def ratio_interval(numerators: Sequence[float], denominators: Sequence[float], *, confidence: float) -> Interval:
    """Sum of ``numerators`` / sum of ``denominators`` (all above 0) and its interval; one pair a text.

    For figures that weigh long texts more. To first order the ratio is a mean of what each pair adds to it (the delta
    method), so its interval is that of such a mean.
    """
    above_N, below_N = (np.asarray(values, dtype=np.float64) for values in (numerators, denominators))
    if not len(below_N):
        return NOTHING
    ratio = float(above_N.sum() / below_N.sum())
    if len(below_N) == 1:
        return Interval(ratio, None, None)
    added_N = (above_N - ratio * below_N) / below_N.mean()
    if np.abs(added_N).max() <= 1e-12 * max(abs(ratio), 1e-12):
        return Interval(ratio, ratio, ratio)
    down, up = _reach(added_N - added_N.mean(), confidence)
    return Interval(ratio, ratio - down, ratio + up)


def jackknife(estimate: float, left_out: Sequence[float], *, confidence: float) -> Interval:
    """``estimate`` ± t · its jackknife error, from the estimates with one observation left out each.

    Efron and Tibshirani, "An Introduction to the Bootstrap", ch. 11. For counts of different things,
    where a bootstrap's repeated observations would count nothing new.
    """
    values_N = np.asarray(left_out, dtype=np.float64)
    if len(values_N) < 2:
        return Interval(estimate, None, None)
    num = len(values_N)
    error = float(np.sqrt((num - 1) / num * ((values_N - values_N.mean()) ** 2).sum()))
    reach = _t_quantile(num, confidence) * error
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
