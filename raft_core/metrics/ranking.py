"""What ranking had to choose from: facts of the training batch, which the policy *before* the training sampled.

candidates_reward    mean over all valid candidates
best_of_k_reward     mean over prompts of the best candidate
headroom             best_of_k_reward − candidates_reward: what ranking has to gain
headroom_bound       B·sqrt(log K / 2) with B the reward's range: E[max] − E[r] is never more
ties                 share of prompts whose best reward is shared by several candidates
all_best, none_pass  share of prompts whose candidates are all best; of which none passes
acceptance           selected / valid candidates
prompt_coverage      share of the drawn prompts that reached the selected set
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.metrics.base import Batch, Figure, Gate, Measured, Metric
from raft_core.selection.base import passes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from raft_core.config.run import RaftConfig


class Ranking(Metric):
    """The figures above, and ``num_selected`` and ``num_quarantined``."""

    type: Literal["ranking"] = "ranking"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("candidates_reward", "mean reward of the candidates, training prompts"),
        Figure("best_of_k_reward", "mean reward of the best of K, training prompts"),
        Figure(
            "headroom",
            "headroom: best of K minus mean",
            "best of K minus mean on the training prompts: what ranking has to gain",
            column="headroom",
            short="room",
            decimals=2,
            better="higher",
            rank=6,
        ),
        Figure("headroom_bound", "largest possible headroom"),
        Figure("acceptance", "share selected", column="accepted", short="kept", percent=True, rank=9),
        Figure(
            "ties",
            "share of prompts with a tied best",
            "share of prompts whose best reward is shared by several candidates",
        ),
        Figure("all_best", "prompts whose candidates are all best"),
        Figure("none_pass", "prompts of which no candidate passes"),
        Figure("prompt_coverage", "share of prompts in the selected set"),
        Figure("num_selected", "samples selected", decimals=0),
        Figure("num_quarantined", "samples quarantined", decimals=0),
    )
    gates: ClassVar[tuple[Gate, ...]] = (
        Gate(
            "min_headroom",
            "headroom",
            "factor",
            "raise sampling.temperature or sampling.samples_per_prompt, or use harder prompts",
            since="first",
            only_stops=True,
        ),
    )
    needs_batch: ClassVar[bool] = True

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        assert measured.batch is not None
        return batch_report(measured.batch, measured.config)


def batch_report(batch: Batch, config: "RaftConfig") -> dict[str, Any]:
    """All figures of ``Ranking``. A candidate is valid if it was scored and no validation suite quarantined it.

    ``none_pass`` and ``all_best`` follow the selector's bar for success (``all_best``,
    ``threshold``); without a bar ``none_pass`` is None and ``all_best`` means that all are equal.
    """
    import pyarrow.compute as pc

    scored = batch.scored
    valid_N = pc.and_(pc.equal(scored["status"], "ok"), pc.is_valid(scored["reward"]))
    if batch.quarantine is not None and batch.quarantine.num_rows:
        caught = pc.unique(batch.quarantine["sample_id"])
        valid_N = pc.and_(valid_N, pc.invert(pc.is_in(scored["sample_id"], value_set=caught)))
    valid = scored.filter(valid_N)
    num_drawn = pc.count_distinct(scored["prompt_id"]).as_py()
    num_covered = pc.count_distinct(batch.selected["prompt_id"]).as_py()
    return {
        **_ranking_facts(valid, config),
        "acceptance": batch.selected.num_rows / valid.num_rows if valid.num_rows else None,
        "prompt_coverage": num_covered / num_drawn if num_drawn else None,
        "num_selected": batch.selected.num_rows,
        "num_quarantined": scored.num_rows - valid.num_rows,
    }


def _ranking_facts(valid: "pa.Table", config: "RaftConfig") -> dict[str, float | None]:
    import numpy as np

    names = ("candidates_reward", "best_of_k_reward", "headroom", "headroom_bound", "ties", "all_best", "none_pass")
    if not valid.num_rows:
        return dict.fromkeys(names)
    rewards_N, starts_B = _by_prompt(valid)
    sizes_B = np.diff(starts_B, append=len(rewards_N))
    best_B = np.maximum.reduceat(rewards_N, starts_B)
    shared_B = np.add.reduceat(rewards_N == np.repeat(best_B, sizes_B), starts_B, dtype=np.int64)
    mean, best = float(rewards_N.mean()), float(best_B.mean())
    passes_B, passes_N = passes(config.selection, best_B), passes(config.selection, rewards_N)
    all_B = shared_B == sizes_B if passes_N is None else np.minimum.reduceat(passes_N, starts_B)
    limits = config.validation
    span = float(rewards_N.max() - rewards_N.min())
    if limits.reward_min is not None and limits.reward_max is not None:
        span = limits.reward_max - limits.reward_min
    return {
        "candidates_reward": mean,
        "best_of_k_reward": best,
        "headroom": best - mean,
        "headroom_bound": span * math.sqrt(math.log(config.sampling.samples_per_prompt) / 2),
        "ties": float((shared_B > 1).mean()),
        "all_best": float(all_B.mean()),
        "none_pass": None if passes_B is None else float((~passes_B).mean()),
    }


def _by_prompt(valid: "pa.Table") -> "tuple[NDArray[np.float64], NDArray[np.int64]]":
    """Rewards with those of a prompt side by side, and where each prompt begins."""
    import numpy as np

    codes_N = valid["prompt_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.argsort(codes_N, kind="stable")
    starts_B = np.flatnonzero(np.diff(codes_N[order], prepend=-1))
    return valid["reward"].to_numpy()[order], starts_B
