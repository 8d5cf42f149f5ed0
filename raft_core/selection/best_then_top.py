"""The best of each prompt, then the best fraction of those (arXiv:2304.06767, section 5, diffusion).

    y*(x) = argmax_k r(x, y_k)
    keep the n prompts with the largest r(x, y*(x)),    n = max(1, floor(fraction · number of prompts))

The paper draws ten images a prompt, keeps the best of each, and trains on the top eight of ten
prompts. Which sample stands for a prompt depends on ranks within it alone; which prompts stay
depends on rewards across prompts.

Ties: the smaller sample_id wins, within a prompt and at the border of the fraction.
Degenerate: fraction 1 is best_of_k; at least one prompt is kept.
"""

import numpy as np
from numpy.typing import NDArray

from raft_core.config import BestOfKConfig, BestThenTopConfig
from raft_core.selection import best_of_k
from raft_core.selection.base import Candidates, num_kept


def select(candidates: Candidates, config: BestThenTopConfig, samples_per_prompt: int) -> NDArray[np.int64]:
    """Indices of the best samples of the best ``config.fraction`` of the prompts, ordered by prompt."""
    best = best_of_k.select(candidates, BestOfKConfig(), samples_per_prompt)
    by_reward = np.lexsort((candidates.sample_ids_N[best], -candidates.rewards_N[best]))
    return best[np.sort(by_reward[: num_kept(len(best), config.fraction)])]
