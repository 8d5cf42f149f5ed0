"""What a selector is, and what it ranks.

A selector of your own is a subclass of ``Selector`` in one file, plus one line: in ``raft_core.selection.registry``, or
in an installed package an entry point of the group ``raft.selectors`` (``raft_core.plugins``).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raft_core.config.model import ConfigModel
from raft_core.errors import RaftError, StepError

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
        """What to change if these settings keep every sample; None if they do not."""
        return None

    def tells_apart(self, prompts_N: Indices, rewards_N: Rewards) -> Mask:
        """Which samples the rule can distinguish by their reward. Default: all without the most common reward."""
        return differs_from_most_common(rewards_N)

    def passes(self, rewards_N: Rewards) -> Mask | None:
        """Which rewards count as a success; None for a rule without a threshold."""
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

    A product that is an integer except for rounding errors (0.29 · 100 = 28.999…) counts as that integer.
    """
    return max(min(num, 1), int(num * fraction * (1 + 1e-12)))


@contextmanager
def faults_of(selector: Selector) -> Iterator[None]:
    """Turn whatever a selector raises, or wrongly returns, into a StepError that names the selector."""
    try:
        yield
    except RaftError:
        raise
    except Exception as error:
        raise StepError(
            f"selector {selector.type} failed",
            got=f"{type(error).__name__}: {error}",
            expected="what raft_core.selection.base.Selector describes",
            hint=f"correct {type(selector).__module__}.{type(selector).__name__}",
        ) from error


def select(candidates: Candidates, selector: Selector, samples_per_prompt: int) -> Selection:
    """What ``selector`` keeps, in order. Raises StepError where it fails, or breaks the rules of ``Selection``."""
    import numpy as np

    with faults_of(selector):
        kept = selector.select(candidates, samples_per_prompt)
        if not isinstance(kept, Selection):
            raise TypeError(f"select returned {_kind(kept)}, not a Selection")
        indices_M, weights_M = np.asarray(kept.indices_M), np.asarray(kept.weights_M)
        if indices_M.ndim != 1 or indices_M.shape != weights_M.shape:
            raise ValueError(f"indices of shape {indices_M.shape} with weights of shape {weights_M.shape}")
        if len(indices_M) and indices_M.dtype.kind not in "iu":
            raise TypeError(f"indices of type {indices_M.dtype}; np.flatnonzero makes integers of a mask")
        if len(indices_M) and not (indices_M.min() >= 0 and indices_M.max() < len(candidates.rewards_N)):
            raise ValueError(f"an index outside the {len(candidates.rewards_N)} candidates")
        if len(np.unique(indices_M)) != len(indices_M):
            raise ValueError("the same candidate twice")
        if weights_M.dtype.kind not in "iuf" or not (np.isfinite(weights_M) & (weights_M > 0)).all():
            raise ValueError("a weight that is not a finite number above 0")
        place_N = np.empty(len(candidates.rewards_N), np.int64)
        place_N[ranking(candidates)] = np.arange(len(place_N))
        order_M = np.argsort(place_N[indices_M.astype(np.int64)], kind="stable")
        return Selection(indices_M[order_M].astype(np.int64), weights_M[order_M].astype(np.float64))


def tells_apart(selector: Selector, prompts_N: Indices, rewards_N: Rewards) -> Mask:
    """``selector.tells_apart``, checked. Raises StepError where it fails, or returns no mask over the N samples."""
    import numpy as np

    with faults_of(selector):
        mask_N = np.asarray(selector.tells_apart(prompts_N, rewards_N))
        if mask_N.shape != (len(rewards_N),) or (len(mask_N) and mask_N.dtype.kind != "b"):
            raise ValueError(f"tells_apart returned {_kind(mask_N)} for {len(rewards_N)} samples, not one bool each")
        return mask_N.astype(bool)


def passes(selector: Selector, rewards_N: Rewards) -> Mask | None:
    """``selector.passes``, checked. Raises StepError where it fails, or returns neither None nor a mask over N."""
    import numpy as np

    with faults_of(selector):
        if (passed := selector.passes(rewards_N)) is None:
            return None
        mask_N = np.asarray(passed)
        if mask_N.shape != (len(rewards_N),) or (len(mask_N) and mask_N.dtype.kind != "b"):
            raise ValueError(f"passes returned {_kind(mask_N)} for {len(rewards_N)} rewards, not one bool each")
        return mask_N.astype(bool)


def _kind(value: object) -> str:
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"an array of shape {shape} and type {dtype}"
