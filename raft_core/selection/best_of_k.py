"""The best of each prompt: Algorithm 1 of RAFT (arXiv:2304.06767), its "local ranking".

    y*(x) = argmax_k r(x, y_k),    k = 1..K

One pair a prompt is kept, so the acceptance ratio is 1/K. Only the order within a prompt
matters: a positive affine map of r, another one for each prompt, selects the same samples.

Ties: the smallest sample_id wins. It is a hash, so a tie is broken by chance, once and for all.
Degenerate: with K = 1 every sample is kept; a prompt without candidates yields none.
"""

import numpy as np
from numpy.typing import NDArray

from raft_core.config import BestOfKConfig
from raft_core.selection.base import Candidates, ranking


def select(candidates: Candidates, config: BestOfKConfig, samples_per_prompt: int) -> NDArray[np.int64]:
    """Indices of the best sample of each prompt, ordered by prompt. ``samples_per_prompt`` plays no part."""
    order = ranking(candidates)
    prompts = candidates.prompts_N[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = prompts[1:] != prompts[:-1]
    return order[first]
