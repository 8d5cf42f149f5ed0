"""How far a policy went from the initial one, and how sure it is of itself: Kullback-Leibler, entropy, perplexity.

All in nats. Log-probabilities come as one list a sequence, one value a token. Weights that diverged
give log-probabilities that are no numbers; where larger is worse, the result is then ``WORST``, so
that a gate sees it.
"""

import math
import sys
from collections.abc import Sequence

Logprobs = Sequence[Sequence[float]]

WORST = sys.float_info.max
"""Stands for an infinite or undefined divergence or perplexity (JSON has neither)."""


def kl_to_base(logprobs: Logprobs, base_logprobs: Logprobs) -> float | None:
    """KL(policy || initial policy): the mean over sequences of the sum of log p_t(token) − log p_0(token).

    The unbiased estimate from the policy's own samples, both sides at the same λ (EVALUATION's two
    columns): 0 for the initial policy, and by chance a little below 0 close to it. None without
    sequences. Raises ValueError if two lists of a sequence differ in length.
    """
    if not logprobs:
        return None
    sums = [
        sum(p_now - p_then for p_now, p_then in zip(now, then, strict=True))
        for now, then in zip(logprobs, base_logprobs, strict=True)
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
    num_tokens = sum(map(len, logprobs))
    if not num_tokens:
        return None
    nll = -sum(map(sum, logprobs)) / num_tokens
    return math.exp(nll) if nll < math.log(WORST) else WORST


def token_entropy(logprobs: Logprobs) -> float | None:
    """Mean of −log p over all sampled tokens: the estimate of the entropy a token. None if it is no number."""
    num_tokens = sum(map(len, logprobs))
    total = sum(map(sum, logprobs))
    return max(0.0, -total / num_tokens) if num_tokens and math.isfinite(total) else None
