"""The best of one pool over all prompts: RAFT's "global ranking" (arXiv:2304.06767, section 3; LMFlow's "top").

    keep the n largest r(x, y) of all N samples,    n = max(1, floor(fraction · N)),  fraction = 1/K if none is given

More sample-efficient than the best of each prompt where rewards are comparable across prompts,
and wrong where they are not: easy prompts then crowd out the hard ones, so an affine map of one
prompt's rewards changes the selection. The scorecard's prompt_coverage shows it.

Ties: at the border of the fraction the smaller sample_id wins.
Degenerate: at least one sample is kept of a pool that is not empty; a prompt may get none or all.
"""

import numpy as np
from numpy.typing import NDArray

from raft_core.config import TopFractionConfig
from raft_core.selection.base import Candidates, num_kept, ranking


def select(candidates: Candidates, config: TopFractionConfig, samples_per_prompt: int) -> NDArray[np.int64]:
    """Indices of the best ``config.fraction`` of all samples, ordered by prompt, then best first."""
    fraction = config.fraction if config.fraction is not None else 1 / samples_per_prompt
    pool = np.lexsort((candidates.sample_ids_N, -candidates.rewards_N))
    kept = np.zeros(len(pool), dtype=bool)
    kept[pool[: num_kept(len(pool), fraction)]] = True
    order = ranking(candidates)
    return order[kept[order]]
