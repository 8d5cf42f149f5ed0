"""The perplexity of a fixed real text under the policy (the paper's protocol), and of its completions under the base.

It is among the first figures to rise when a reward is exploited.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Gate, Measured, Metric
from raft_core.metrics.divergence import WORST, Logprobs


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
