"""The best of one pool over all prompts: RAFT's "global ranking" (arXiv:2304.06767, section 3; LMFlow's "top").

    keep the n largest r(x, y) of all N samples,    n = max(1, floor(fraction · N)),  fraction = 1/K if none is given

More sample-efficient than the best of each prompt where rewards are comparable across prompts,
and wrong where they are not: easy prompts then crowd out the hard ones, so an affine map of one
prompt's rewards changes the selection. The scorecard's prompt_coverage shows it.

Ties: at the border of the fraction the smaller sample_id wins.
Degenerate: at least one sample is kept of a pool that is not empty; a prompt may get none or all.
"""

from typing import Literal

from pydantic import Field

from raft_core.config.model import Fraction
from raft_core.selection.base import Candidates, Ranked, Selection, Selector, num_kept, ranking


class TopFraction(Selector):
    """Keep the best samples of all prompts together, in one ranking (LMFlow's "top")."""

    type: Literal["top_fraction"] = "top_fraction"
    fraction: Fraction | None = Field(
        None, description="share of all valid samples to keep; null: 1 / samples_per_prompt"
    )

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """The best ``fraction`` of all samples."""
        import numpy as np

        pool = np.lexsort((candidates.sample_ids_N, -candidates.rewards_N))
        kept = np.zeros(len(pool), dtype=bool)
        kept[pool[: num_kept(len(pool), self._share(samples_per_prompt))]] = True
        order = ranking(candidates)
        return Selection.plain(order[kept[order]])

    def explain(self, sample: Ranked) -> str:
        """See ``Selector.explain``."""
        kept = f"top_fraction keeps the best {self._share(sample.samples_per_prompt):.4g} of all samples"
        return f"{kept}, whose lowest reward is {sample.lowest_kept}"

    def keeps_everything(self, samples_per_prompt: int) -> str | None:
        """See ``Selector.keeps_everything``."""
        if self._share(samples_per_prompt) < 1:
            return None
        return "lower selection.fraction or raise sampling.samples_per_prompt"

    def _share(self, samples_per_prompt: int) -> float:
        return self.fraction if self.fraction is not None else 1 / samples_per_prompt
