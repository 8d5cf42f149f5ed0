"""The loss of the training, and what the held-out reward gained since some iterations ago, on the same prompts."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Measured, Metric, mean
from raft_core.metrics.divergence import WORST

if TYPE_CHECKING:
    import pyarrow as pa

    from raft_core.config.run import RaftConfig
    from raft_core.evaluation.statistics import Interval


class Training(Metric):
    """``train_loss``: mean over optimiser steps; ``paired_gain``: since ``gates.convergence_window`` iterations ago."""

    type: Literal["training"] = "training"

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure("train_loss", "fine-tuning loss", better="lower"),
        Figure("paired_gain", "paired gain over recent iterations", better="higher", interval=True),
    )
    needs_batch: ClassVar[bool] = True

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        from raft_core.evaluation.statistics import NOTHING

        then, loss = measured.then, mean(measured.losses)
        gain = gain_since(measured.evaluation, then, measured.config) if then is not None else NOTHING
        return {
            "train_loss": WORST if loss is not None and not math.isfinite(loss) else loss,
            "paired_gain": gain.mean,
            "paired_gain_low": gain.low,
            "paired_gain_high": gain.high,
        }


def gain_since(now: "pa.Table", then: "pa.Table", config: "RaftConfig") -> "Interval":
    """Mean gain in reward of the same held-out prompts between two EVALUATION tables."""
    from raft_core.evaluation.statistics import paired_gain

    rewards_now, rewards_then = (
        dict(zip(table["prompt_id"].to_pylist(), table["reward"].to_pylist(), strict=True)) for table in (now, then)
    )
    return paired_gain(rewards_now, rewards_then, confidence=config.evaluation.confidence)
