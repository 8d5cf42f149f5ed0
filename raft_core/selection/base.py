"""What a selector is, what it ranks, and the registry of selectors.

A selector of your own is a subclass of ``Selector`` in one file, and one line: in ``SELECTORS`` below, or in an
installed package an entry point of the group ``raft.selectors`` (``raft_core.plugins``).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raft_core.config.model import ConfigModel
from raft_core.plugins import Registry

if TYPE_CHECKING:  # numpy is loaded where it computes: every command reads a configuration
    import numpy as np
    from numpy.typing import NDArray

    Rewards = NDArray[np.float64]
    Indices = NDArray[np.int64]
    Mask = NDArray[np.bool_]
    Ids = NDArray[np.str_]
else:
    Rewards = Indices = Mask = Ids = object


@dataclass(frozen=True, slots=True)
class Candidates:
    """The valid scored samples of one iteration, as parallel arrays over N samples.

    prompts_N: integer code of each sample's prompt; rewards_N: float64, finite;
    sample_ids_N: str, the tie-break (a hash, so independent of the order of work).
    """

    prompts_N: Indices
    rewards_N: Rewards
    sample_ids_N: Ids

    def __post_init__(self) -> None:
        import numpy as np

        if not len(self.prompts_N) == len(self.rewards_N) == len(self.sample_ids_N):
            raise ValueError(
                f"{len(self.prompts_N)} prompts, {len(self.rewards_N)} rewards and {len(self.sample_ids_N)} sample ids "
                "are not parallel arrays"
            )
        if not np.isfinite(self.rewards_N).all():
            raise ValueError("a reward that is not finite reached selection; scoring must quarantine it")


@dataclass(frozen=True, slots=True)
class Selection:
    """What is trained on: indices_M of the candidates, ordered by prompt, then best first; and each one's weight.

    weights_M: float64, finite, above 0; 1 in the paper. The loss of a sample's tokens is multiplied by it.
    """

    indices_M: Indices
    weights_M: Rewards

    @staticmethod
    def plain(indices_M: Indices) -> "Selection":
        """Every kept sample with weight 1, as in the paper."""
        import numpy as np

        return Selection(indices_M, np.ones(len(indices_M)))


@dataclass(frozen=True, slots=True)
class Ranked:
    """One valid sample among those of its prompt, for ``Selector.explain``.

    ``rank``: 1 for the best of ``num_valid``; ``best``: reward of the best; ``lowest_kept``: the smallest reward that
    was kept in the iteration, None if nothing was.
    """

    rank: int
    num_valid: int
    reward: float
    best: float
    lowest_kept: float | None
    samples_per_prompt: int


class Selector(ConfigModel, ABC):
    """A selector: its settings, and the rule. Subclasses set ``type`` to a literal of their own."""

    type: str

    @abstractmethod
    def select(self, candidates: Candidates, samples_per_prompt: int) -> Selection:
        """What is kept, and with which weights. ``samples_per_prompt`` is the K that was asked for."""

    def explain(self, sample: Ranked) -> str:
        """The rule in words, for one sample that was kept or dropped by it."""
        return f"{self.type} decides"

    def keeps_everything(self, samples_per_prompt: int) -> str | None:
        """What to change where these settings leave nothing to choose; None where they do not."""
        return None

    def tells_apart(self, prompts_N: Indices, rewards_N: Rewards) -> Mask:
        """Which samples the rule can tell from others by their reward. Of one pool: all but its most common value."""
        return differs_from_most_common(rewards_N)

    def passes(self, rewards_N: Rewards) -> Mask | None:
        """Which rewards count as a success; None for a rule that knows no bar."""
        return None


def ranking(candidates: Candidates) -> Indices:
    """Indices of all samples, best first within each prompt, prompts in order of their code."""
    import numpy as np

    return np.lexsort((candidates.sample_ids_N, -candidates.rewards_N, candidates.prompts_N)).astype(np.int64)


def best_of_prompt(prompts_N: Indices, rewards_N: Rewards) -> Rewards:
    """Each sample's prompt's largest reward; both arrays ordered as ``ranking`` orders them."""
    import numpy as np

    starts = np.flatnonzero(np.diff(prompts_N, prepend=prompts_N[:1] - 1))
    return np.repeat(rewards_N[starts], np.diff(starts, append=len(prompts_N)))


def differs_from_most_common(values_N: Sequence[float] | Rewards | Mask) -> Mask:
    """All but the most common value (of several, the smallest); all True for NaN."""
    import numpy as np

    values = np.asarray(values_N, np.float64)
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return np.asarray(values != (found[counts.argmax()] if len(found) else np.nan))


def num_kept(num: int, fraction: float) -> int:
    """``floor(fraction · num)``, at least 1 of a pool that is not empty.

    A product that is whole but for its last bits (0.29 · 100 = 28.999…) counts as whole.
    """
    return max(min(num, 1), int(num * fraction * (1 + 1e-12)))


SELECTORS = Registry(
    "raft.selectors",
    Selector,  # type: ignore[type-abstract]
    {
        "best_of_k": "raft_core.selection.best_of_k:BestOfK",
        "top_fraction": "raft_core.selection.top_fraction:TopFraction",
        "best_then_top": "raft_core.selection.best_then_top:BestThenTop",
        "all_best": "raft_core.selection.all_best:AllBest",
        "threshold": "raft_core.selection.threshold:Threshold",
    },
)


SELECTION = "selection."
"""What the code of a selector is pinned under, before its type; the name of a reward has no dot."""


def selector_sources(selector: Selector) -> dict[str, dict[str, str]]:
    """Code of another package that selects, in the form in which a run pins its rewards; empty for our own."""
    sources = SELECTORS.sources(selector)
    return {f"{SELECTION}{selector.type}": sources} if sources else {}


def select(candidates: Candidates, selector: Selector, samples_per_prompt: int) -> Selection:
    """What ``selector`` keeps, in order. Raises ValueError where it breaks the rules of ``Selection``."""
    import numpy as np

    kept = selector.select(candidates, samples_per_prompt)
    indices_M, weights_M = np.asarray(kept.indices_M), np.asarray(kept.weights_M)
    if indices_M.ndim != 1 or indices_M.shape != weights_M.shape:
        wrong = f"indices of shape {indices_M.shape} with weights of shape {weights_M.shape}"
    elif len(indices_M) and not (indices_M.min() >= 0 and indices_M.max() < len(candidates.rewards_N)):
        wrong = f"an index outside the {len(candidates.rewards_N)} candidates"
    elif len(np.unique(indices_M)) != len(indices_M):
        wrong = "the same candidate twice"
    elif not (np.isfinite(weights_M) & (weights_M > 0)).all():
        wrong = "a weight that is not above 0, or not finite"
    else:
        place_N = np.empty(len(candidates.rewards_N), np.int64)
        place_N[ranking(candidates)] = np.arange(len(place_N))
        order_M = np.argsort(place_N[indices_M], kind="stable")
        return Selection(indices_M[order_M].astype(np.int64), weights_M[order_M].astype(np.float64))
    raise ValueError(f"selector {selector.type} returned {wrong}")
