"""The reward of each prompt group: a mean can rise while one group loses."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from raft_core.metrics.base import Figure, Measured, Metric, finite


class Slices(Metric):
    """``slices``: mean reward of each named group; ``slice_gap``: the largest minus the smallest.

    Prompts without a group belong to no slice; with fewer than two groups there is no gap.
    """

    type: Literal["slices"] = "slices"

    figures: ClassVar[tuple[Figure, ...]] = (Figure("slice_gap", "gap between groups of prompts", better="lower"),)

    def compute(self, measured: Measured) -> Mapping[str, Any]:
        """See ``Metric.compute``."""
        groups, rewards = (measured.evaluation[name].to_pylist() for name in ("group", "reward"))
        by_group: dict[str, list[float | None]] = {}
        for group, value in zip(groups, rewards, strict=True):
            by_group.setdefault(group, []).append(value)
        means = {
            group: sum(values) / len(values)
            for group, some in sorted(by_group.items())
            if group and (values := finite(some))
        }
        gap = max(means.values()) - min(means.values()) if len(means) > 1 else None
        return {"slice_gap": gap, "slices": means}
