"""What a selector ranks, and the table of selectors."""

from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from raft_core.config import SelectionConfig


@dataclass(frozen=True, slots=True)
class Candidates:
    """The valid scored samples of one iteration, as parallel arrays over N samples.

    prompts_N: integer code of each sample's prompt; rewards_N: float64, finite;
    sample_ids_N: str, the tie-break (a hash, so independent of the order of work).
    """

    prompts_N: NDArray[np.int64]
    rewards_N: NDArray[np.float64]
    sample_ids_N: NDArray[np.str_]

    def __post_init__(self) -> None:
        if not len(self.prompts_N) == len(self.rewards_N) == len(self.sample_ids_N):
            raise ValueError(
                f"{len(self.prompts_N)} prompts, {len(self.rewards_N)} rewards and {len(self.sample_ids_N)} sample ids "
                "are no parallel arrays"
            )
        if not np.isfinite(self.rewards_N).all():
            raise ValueError("a reward that is not finite reached selection; scoring must quarantine it")


def ranking(candidates: Candidates) -> NDArray[np.int64]:
    """Indices of all samples, best first within each prompt, prompts in order of their code."""
    return np.lexsort((candidates.sample_ids_N, -candidates.rewards_N, candidates.prompts_N)).astype(np.int64)


def best_of_prompt(prompts_N: NDArray[np.int64], rewards_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each sample's prompt's largest reward; both arrays ordered as ``ranking`` orders them."""
    starts = np.flatnonzero(np.diff(prompts_N, prepend=prompts_N[:1] - 1))
    return np.repeat(rewards_N[starts], np.diff(starts, append=len(prompts_N)))


def num_kept(num: int, fraction: float) -> int:
    """``floor(fraction · num)``, at least 1 of a pool that is not empty.

    A product that is whole but for its last bits (0.29 · 100 = 28.999…) counts as whole.
    """
    return max(min(num, 1), int(num * fraction * (1 + 1e-12)))


SELECTORS = {
    "best_of_k": "raft_core.selection.best_of_k",
    "top_fraction": "raft_core.selection.top_fraction",
    "best_then_top": "raft_core.selection.best_then_top",
    "all_best": "raft_core.selection.all_best",
    "threshold": "raft_core.selection.threshold",
}
"""``type`` → the module whose ``select(candidates, config, samples_per_prompt)`` returns indices."""


def select(candidates: Candidates, config: SelectionConfig, samples_per_prompt: int) -> NDArray[np.int64]:
    """Indices of the kept samples, ordered by prompt, then best first."""
    kept: NDArray[np.int64] = import_module(SELECTORS[config.type]).select(candidates, config, samples_per_prompt)
    return kept
