"""How far a policy went from the initial one, and how sure it is of itself: Kullback-Leibler divergence, entropy.

All in nats. Log-probabilities come as one list per sequence, one value per token. Weights that diverged
give log-probabilities that are not numbers; where larger is worse, the result is then ``WORST``, so
that a gate sees it.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Gate, Measured, Metric

if TYPE_CHECKING:
    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates

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


def token_entropy(logprobs: Logprobs) -> float | None:
    """Mean of −log p over all sampled tokens: the estimate of the entropy per token. None if it is not a number."""
    num_tokens = sum(map(len, logprobs))
    total = sum(map(sum, logprobs))
    return max(0.0, -total / num_tokens) if num_tokens and math.isfinite(total) else None


class Divergence(Metric):
    """``kl``, ``kl_bound`` (nats per completion) and ``token_entropy`` (nats per token)."""

    type: Literal["divergence"] = "divergence"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            "kl",
            "KL divergence from the initial policy, nats",
            "how far the policy has moved, in nats per completion; 0 means not at all",
            column="KL",
            short="KL",
            decimals=2,
            better="lower",
            rank=3,
            headline=True,
        ),
        Figure(
            "kl_bound",
            "KL of exact best-of-K, repeated",
            "KL that perfect training on the best of K would reach after as many iterations; for comparison only",
        ),
        Figure(
            "token_entropy",
            "token entropy, nats",
            "how uncertain the policy is about the next token; falls as completions become alike",
        ),
    )
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate("max_kl", "kl", "at_most", "lower finetuning.learning_rate or iterations"),
    )

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        logprobs = measured.evaluation["sampling_logprobs"].to_pylist()
        samples_per_prompt = measured.config.sampling.samples_per_prompt
        return {
            "kl": kl_to_base(logprobs, measured.evaluation["base_logprobs"].to_pylist()),
            "kl_bound": kl_bound(samples_per_prompt, measured.iteration + 1),
            "token_entropy": token_entropy(logprobs),
        }

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """Nats per sequence to the candidate's own base: upper bound < ``max_kl``."""
        from raft_core.evaluation.statistics import NOTHING
        from raft_core.promotion.findings import upper

        table = pairs.candidate.evaluation
        sides = zip(table["sampling_logprobs"].to_pylist(), table["base_logprobs"].to_pylist(), strict=True)
        sums = [math.fsum(now) - math.fsum(then) for now, then in sides]
        found = pairs.mean(sums) if all(map(math.isfinite, sums)) else NOTHING
        yield from upper("kl", found, gates.max_kl, figure="nats per sequence to the base", key="max_kl")
