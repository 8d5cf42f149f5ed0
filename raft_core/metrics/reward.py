"""The mean held-out reward, of the rewards that select and of the gold rewards that only watch.

Of one sample of each held-out prompt; intervals are over prompts (``statistics.mean_interval``).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.metrics.base import Figure, Measured, Metric, finite, mean
from raft_core.rewards.base import reward_name

if TYPE_CHECKING:
    import pyarrow as pa

    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates


class Reward(Metric):
    """``reward``, its interval, ``num_prompts``, ``rewards`` by component, and ``rough_intervals``.

    ``rough_intervals`` names the figures whose interval is of fewer prompts than it holds from.
    """

    type: Literal["reward"] = "reward"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("num_prompts", "held-out prompts", decimals=0),
        Figure(
            "reward",
            "held-out reward",
            "mean reward of completions of prompts that training never used",
            column="reward",
            short="reward",
            decimals=2,
            better="higher",
            rank=0,
            headline=True,
            interval=True,
        ),
    )

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        table, config = measured.evaluation, measured.config
        names = ("reward", "gold_reward")
        known = {name: len(finite(table[name].to_pylist())) for name in names}
        return {
            "num_prompts": table.num_rows,
            **_interval(measured, "reward"),
            "rewards": _components(table, [reward_name(r) for r in config.scoring.rewards]),
            "rough_intervals": [name for name in names if 0 < known[name] < HOLDS_FROM],
        }

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """Mean paired gain: lower bound > ``min_reward_gain``."""
        from raft_core.promotion.findings import lower

        gain, means = pairs.gain("reward"), pairs.means("reward")
        yield from lower("reward", gain, gates.min_reward_gain, means, figure="mean gain", key="min_reward_gain")


class GoldReward(Metric):
    """``gold_reward``, its interval, and ``gold_rewards`` by component."""

    type: Literal["gold_reward"] = "gold_reward"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(
            "gold_reward",
            "gold reward",
            "a second reward that selection never uses; if it does not rise too, the reward may be exploited",
            column="gold",
            short="gold",
            decimals=2,
            better="higher",
            rank=1,
            headline=True,
            interval=True,
        ),
    )

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        names = [reward_name(r) for r in measured.config.scoring.gold]
        return {**_interval(measured, "gold_reward"), "gold_rewards": _components(measured.evaluation, names)}

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """Mean paired gain: lower bound > −``max_gold_loss``."""
        from raft_core.promotion.findings import lower, minus

        gain, means, limit = pairs.gain("gold_reward"), pairs.means("gold_reward"), minus(gates.max_gold_loss)
        yield from lower("gold_reward", gain, limit, means, figure="mean gain", key="max_gold_loss")


def _interval(measured: Measured, name: str) -> dict[str, float | None]:
    from raft_core.evaluation.statistics import mean_interval

    values = finite(measured.evaluation[name].to_pylist())
    found = mean_interval(values, confidence=measured.config.evaluation.confidence)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}


def _components(evaluation: "pa.Table", names: Sequence[str]) -> dict[str, float | None]:
    scores: dict[str, list[float | None]] = {name: [] for name in names}
    for row in evaluation["components"].to_pylist():
        for component in row or ():
            if component["name"] in scores:
                scores[component["name"]].append(component["score"])
    return {name: mean(finite(some)) for name, some in scores.items()}
