"""The reward of each prompt group: a mean can rise while one group loses."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raft_core.evaluation.rough import HOLDS_FROM
from raft_core.metrics.base import Figure, Measured, Metric, finite

if TYPE_CHECKING:
    from raft_core.promotion.findings import Finding
    from raft_core.promotion.pairs import Pairs
    from raft_core.promotion.rules import PromotionGates


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

    def compare(self, pairs: "Pairs", gates: "PromotionGates") -> "Iterator[Finding]":
        """Mean paired gain in each prompt group, the worst first: lower bound > −``max_slice_loss``.

        A loss in one group is not offset by gains in others.
        """
        from raft_core.promotion.findings import Finding, lower

        if gates.max_slice_loss is None:
            return
        found: list[Finding] = []
        for group, count in pairs.groups().items():
            name, limit = f"slice:{group or 'all'}", -gates.max_slice_loss
            gain, what, key = pairs.gain("reward", group), "mean gain", "max_slice_loss"
            if count < gates.min_slice_prompts:
                note = f"not a gate: group size {count}, gates.min_slice_prompts is {gates.min_slice_prompts}"
                found.append(
                    Finding(name, gain.mean, gain.low, gain.high, "low >", limit, True, None, None, note, what, key)
                )
            else:
                note = f"rough interval: only {count} prompts" if count < HOLDS_FROM else ""
                found += lower(name, gain, limit, figure=what, key=key, note=note)
        yield from sorted(found, key=lambda finding: math.inf if finding.low is None else finding.low)
