"""The perplexity of a fixed real text under the policy (the paper's protocol), and of its completions under the base.

It is among the first figures to rise when a reward is exploited.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Gate, Measured, Metric
from raft_core.metrics.divergence import WORST, Logprobs

if TYPE_CHECKING:
    from raft_core.evaluation.statistics import Interval
    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates


def perplexity(logprobs: Logprobs) -> float | None:
    """exp(−mean log p) over all tokens of all sequences; None without tokens, ``WORST`` beyond floats."""
    num_tokens = sum(map(len, logprobs))
    if not num_tokens:
        return None
    nll = -sum(map(sum, logprobs)) / num_tokens
    return math.exp(nll) if nll < math.log(WORST) else WORST


class Perplexity(Metric):
    """``perplexity``: of ``evaluation.perplexity_text``; ``response_perplexity``: of the completions under the base."""

    type: Literal["perplexity"] = "perplexity"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            "perplexity",
            "perplexity of real text",
            "how surprised the policy is by a fixed reference text; often rises when a reward is exploited",
            column="perplexity",
            short="ppl",
            decimals=2,
            better="lower",
            rank=2,
            headline=True,
        ),
        Figure("response_perplexity", "perplexity of completions under the initial policy", decimals=2),
    )
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate("max_perplexity_rise", "perplexity", "rise", "lower finetuning.learning_rate or iterations"),
    )

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        return {
            "perplexity": perplexity(measured.text_logprobs),
            "response_perplexity": perplexity(measured.evaluation["base_logprobs"].to_pylist()),
        }

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """exp((NLL − NLL of the reference) / tokens of the reference) − 1, on fixed texts: upper bound < the limit."""
        from raft_core.promotion.findings import upper

        found = _rise(pairs)
        yield from upper(
            "perplexity", found, gates.max_perplexity_rise, figure="relative rise", key="max_perplexity_rise"
        )


def _rise(pairs: "Pairs") -> "Interval":
    from raft_core.evaluation.statistics import NOTHING, Interval, ratio_interval

    ours, theirs = (
        dict(zip(e.perplexity["text"].to_pylist(), e.perplexity["logprobs"].to_pylist(), strict=True))
        for e in (pairs.candidate, pairs.reference)
    )
    texts = sorted(text for text in ours.keys() & theirs.keys() if theirs[text])
    added = [-math.fsum(ours[text]) + math.fsum(theirs[text]) for text in texts]
    if not all(map(math.isfinite, added)):
        return NOTHING
    log_rise = ratio_interval(added, [len(theirs[text]) for text in texts], confidence=pairs.confidence)
    bounds = (log_rise.mean, log_rise.low, log_rise.high)
    return Interval(*(None if v is None else math.expm1(min(v, 700.0)) for v in bounds))
