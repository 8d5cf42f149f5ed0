"""All samples with at least a given reward (rejection sampling with a fixed threshold).

    keep every y_k with r(x, y_k) >= threshold

The bar is absolute: the acceptance rate rises with the policy, and a prompt may keep none or all.

Ties: a reward equal to the threshold is kept.
Degenerate: an empty result if nothing reaches the bar.
"""

from typing import Literal

from pydantic import Field

from raft_core.selection.base import (
    Candidates,
    Indices,
    Mask,
    Ranked,
    Rewards,
    Selection,
    Selector,
    differs_from_most_common,
    ranking,
)


class Threshold(Selector):
    """Keep every sample with a reward of at least `threshold`."""

    type: Literal["threshold"] = "threshold"
    threshold: float = Field(description="smallest reward that is kept")

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """All samples with ``r >= threshold``."""
        order = ranking(candidates)
        return Selection.plain(order[self.passes(candidates.rewards_N[order])])

    def explain(self, sample: Ranked) -> str:
        """See ``Selector.explain``."""
        return f"threshold keeps a reward of at least {self.threshold}"

    def tells_apart(self, prompts_N: Indices, rewards_N: Rewards) -> Mask:
        """Which side of the threshold a sample is on, and nothing else."""
        return differs_from_most_common(self.passes(rewards_N))

    def passes(self, rewards_N: Rewards) -> Mask:
        """See ``Selector.passes``."""
        return rewards_N >= self.threshold
