"""All samples with at least a given reward (rejection sampling at a fixed bar).

    keep every y_k with r(x, y_k) >= threshold

The bar is absolute: the acceptance rate rises with the policy, and a prompt may keep none or all.

Ties: a reward equal to the threshold is kept.
Degenerate: an empty result if nothing reaches the bar.
"""

import numpy as np
from numpy.typing import NDArray

from raft_core.config import ThresholdConfig
from raft_core.selection.base import Candidates, ranking


def select(candidates: Candidates, config: ThresholdConfig, samples_per_prompt: int) -> NDArray[np.int64]:
    """Indices of all samples with ``r >= config.threshold``, ordered by prompt, then best first."""
    order = ranking(candidates)
    return order[candidates.rewards_N[order] >= config.threshold]
