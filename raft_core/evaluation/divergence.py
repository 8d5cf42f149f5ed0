"""How far a policy went from the initial one, and how sure it is of itself: Kullback-Leibler, entropy, perplexity.

All in nats. Log-probabilities come as one list a sequence, one value a token. Weights that diverged
give log-probabilities that are no numbers; where larger is worse, the result is then ``WORST``, so
that a gate sees it.
"""

import math
import sys
from collections.abc import Sequence

import numpy as np

Logprobs = Sequence[Sequence[float]]

WORST = sys.float_info.max
"""Stands for an infinite or undefined divergence or perplexity (JSON has neither)."""


def kl_to_base(sampling_logprobs: Logprobs, base_logprobs: Logprobs) -> float | None:
    """KL(policy || initial policy): the mean over sequences of the sum of log p_t(token) − log p_0(token).

    The unbiased estimate from the policy's own samples, each under the distribution that was
    sampled and under the initial policy at the same λ. With top-k or top-p the sampled distribution
    is cut and the initial one is not, so the base itself scores above 0. None without sequences.

    Raises ValueError if two lists of a sequence differ in length.
    """
    if not sampling_logprobs:
        return None
    sums = [
        sum(p_now - p_then for p_now, p_then in zip(now, then, strict=True))
        for now, then in zip(sampling_logprobs, base_logprobs, strict=True)
    ]
    return math.fsum(sums) / len(sums) if all(map(math.isfinite, sums)) else WORST


def kl_bound(samples_per_prompt: int, iterations: int) -> float:
    """KL(p_n || p_0) of n iterations of best-of-K that are each fitted perfectly.

    One iteration: log K − (K − 1)/K (a bound, reached without ties). The best of K of a best of K is
    the best of K², so n iterations give n·log K − (1 − K^−n): more than n times one iteration. For
    other selectors it is a yardstick, not a bound.
    """
    return iterations * math.log(samples_per_prompt) - (1 - float(samples_per_prompt) ** -iterations)


def perplexity(logprobs: Logprobs) -> float | None:
    """exp(−mean log p) over all tokens of all sequences; None without tokens, ``WORST`` beyond floats."""
    mean = _mean_token(logprobs)
    if mean is None:
        return None
    return math.exp(-mean) if -mean < math.log(WORST) else WORST


def token_entropy(sampling_logprobs: Logprobs) -> float | None:
    """Mean of −log p over all sampled tokens: the unbiased estimate of the entropy a token."""
    mean = _mean_token(sampling_logprobs)
    return None if mean is None or not math.isfinite(mean) else -mean + 0.0


def _mean_token(logprobs: Logprobs) -> float | None:
    tokens = np.concatenate([np.asarray(line, dtype=np.float64) for line in logprobs]) if len(logprobs) else []
    return float(np.mean(tokens)) if len(tokens) else None

