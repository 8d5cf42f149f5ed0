"""The best of each prompt: Algorithm 1 of RAFT (arXiv:2304.06767), its "local ranking".

    y*(x) = argmax_k r(x, y_k),    k = 1..K

One pair a prompt is kept, so the acceptance ratio is 1/K. Only the order within a prompt
matters: a positive affine map of r, another one for each prompt, selects the same samples.

Ties: the smallest sample_id wins. It is a hash, so a tie is broken by chance, once and for all.
Degenerate: with K = 1 every sample is kept; a prompt without candidates yields none.
"""

from typing import Literal

from raft_core.selection.base import Candidates, Indices, Mask, Ranked, Rewards, Selection, Selector, ranking


class BestOfK(Selector):
    """Keep the best sample of each prompt (Algorithm 1 of the paper)."""

    type: Literal["best_of_k"] = "best_of_k"

    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """The best sample of each prompt. ``samples_per_prompt`` has no effect."""
        return Selection.plain(best_of_each(candidates))

    def explain(self, sample: Ranked) -> str:
        """See ``Selector.explain``."""
        tie = sample.rank > 1 and sample.reward == sample.best
        return "best_of_k keeps the first" + ("; equal rewards: the smaller sample_id wins" if tie else "")

    def keeps_everything(self, samples_per_prompt: int) -> str | None:
        """See ``Selector.keeps_everything``."""
        if samples_per_prompt > 1:
            return None
        return "raise sampling.samples_per_prompt, or choose selection.type threshold or best_then_top"

    def tells_apart(self, prompts_N: Indices, rewards_N: Rewards) -> Mask:
        """Within a prompt alone: all samples but those with its smallest reward."""
        import numpy as np

        order_N = np.lexsort((rewards_N, prompts_N))
        prompts_N, rewards_N = prompts_N[order_N], rewards_N[order_N]
        starts = np.flatnonzero(np.diff(prompts_N, prepend=np.nan))
        sizes = np.diff(starts, append=len(prompts_N))
        differs_N = np.empty(len(order_N), np.bool_)
        differs_N[order_N] = rewards_N != np.repeat(rewards_N[starts], sizes)
        return differs_N


def best_of_each(candidates: Candidates) -> Indices:
    """Index of the best sample of each prompt, ordered by prompt."""
    import numpy as np

    order = ranking(candidates)
    prompts = candidates.prompts_N[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = prompts[1:] != prompts[:-1]
    return order[first]
