"""All samples that reach their prompt's maximum: RAFT for verifiable rewards (arXiv:2504.11343).

    keep every y_k with r(x, y_k) = max_j r(x, y_j), where that maximum is above ``success``

With a 0/1 verifier and success 0 these are all correct responses; prompts that no response solves
are dropped, never filled up with failures. A prompt with many correct responses weighs more.

Ties: all of them are kept, since they are the point; equality is exact.
Degenerate: an empty result if no prompt succeeds. With a continuous reward it is best_of_k above ``success``.
"""

from typing import Literal

from pydantic import Field

from raft_core.selection.base import Candidates, Mask, Ranked, Rewards, Selection, Selector, best_of_prompt, ranking


class AllBest(Selector):
    """Keep every sample that reaches the highest reward of its prompt; prompts without a success are dropped."""

    type: Literal["all_best"] = "all_best"
    success: float = Field(0.0, description="a prompt is dropped unless its highest reward is above this")

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """All samples that equal their prompt's maximum."""
        order = ranking(candidates)
        rewards = candidates.rewards_N[order]
        best = best_of_prompt(candidates.prompts_N[order], rewards)
        return Selection.plain(order[(rewards == best) & (best > self.success)])

    def explain(self, sample: Ranked) -> str:
        """See ``Selector.explain``."""
        kept = f"all_best keeps every sample with the prompt's highest reward, {sample.best}"
        return f"{kept}, if it is above {self.success}"

    def passes(self, rewards_N: Rewards) -> Mask:
        """See ``Selector.passes``."""
        return rewards_N > self.success
