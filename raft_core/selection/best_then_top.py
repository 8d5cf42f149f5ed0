"""The best of each prompt, then the best fraction of those (arXiv:2304.06767, section 5, diffusion).

    y*(x) = argmax_k r(x, y_k)
    keep the n prompts with the largest r(x, y*(x)),    n = max(1, floor(fraction · number of prompts))

The paper draws ten images a prompt, keeps the best of each, and trains on the top eight of ten
prompts. Which sample stands for a prompt depends on ranks within it alone; which prompts stay
depends on rewards across prompts.

Ties: the smaller sample_id wins, within a prompt and at the border of the fraction.
Degenerate: fraction 1 is best_of_k; at least one prompt is kept.
"""

from typing import Literal

from pydantic import Field

from raft_core.config.model import Fraction
from raft_core.selection.base import Candidates, Ranked, Selection, Selector, num_kept
from raft_core.selection.best_of_k import best_of_each


class BestThenTop(Selector):
    """Keep the best sample of each prompt, then the best share of those (the paper's rule for diffusion models)."""

    type: Literal["best_then_top"] = "best_then_top"
    fraction: Fraction = Field(0.8, description="share of the best samples to keep, those with the highest rewards")

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """The best samples of the best ``fraction`` of the prompts."""
        import numpy as np

        best = best_of_each(candidates)
        by_reward = np.lexsort((candidates.sample_ids_N[best], -candidates.rewards_N[best]))
        return Selection.plain(best[np.sort(by_reward[: num_kept(len(best), self.fraction)])])

    def explain(self, sample: Ranked) -> str:
        """See ``Selector.explain``."""
        kept = f"best_then_top keeps the best {self.fraction:.4g} of the prompts' first"
        return f"{kept}, whose lowest is {sample.lowest_kept}"

    def keeps_everything(self, samples_per_prompt: int) -> str | None:
        """See ``Selector.keeps_everything``."""
        if samples_per_prompt > 1 or self.fraction < 1:
            return None
        return "lower selection.fraction or raise sampling.samples_per_prompt"
