"""All samples that reach their prompt's maximum: RAFT for verifiable rewards (arXiv:2504.11343).

    keep every y_k with r(x, y_k) = max_j r(x, y_j), where that maximum is above ``success``

With a 0/1 verifier and success 0 these are all correct responses; prompts that no response solves
are dropped, never filled up with failures. A prompt with many correct responses weighs more.

Ties: all of them are kept, since they are the point; equality is exact.
Degenerate: an empty result if no prompt succeeds. With a continuous reward it is best_of_k above ``success``.
"""

import numpy as np
from numpy.typing import NDArray

from raft_core.config import AllBestConfig
from raft_core.selection.base import Candidates, best_of_prompt, ranking


def select(candidates: Candidates, config: AllBestConfig, samples_per_prompt: int) -> NDArray[np.int64]:
    """Indices of all samples that equal their prompt's maximum, ordered by prompt."""
    order = ranking(candidates)
    rewards = candidates.rewards_N[order]
    best = best_of_prompt(candidates.prompts_N[order], rewards)
    kept: NDArray[np.bool_] = (rewards == best) & (best > config.success)
    return order[kept]
