"""The metrics: ours, which every report has, and those of installed packages (``raft_core.plugins``)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from raft_core.metrics.base import Figure, Gate, Metric
from raft_core.plugins import NAME, Registry


def _check(metric: type[Metric]) -> None:
    """What a metric of another package may declare."""
    names = [f"{figure.name}{end}" for figure in metric.figures for end in figure.ends]
    if bad := [name for name in names if not re.fullmatch(NAME, name)]:
        raise TypeError(f"the figure {bad[0]!r} has other characters than letters, digits, _ and -")
    if taken := [name for name in names if name == "iteration" or name.startswith("seconds")]:
        raise TypeError(f"the figure {taken[0]} has a name that the report uses for something else")
    if metric.gates or metric.compare is not Metric.compare:
        raise TypeError("it has gates of its own; limits on its figures are set by gates.limits")


METRICS = Registry(
    "raft.metrics",
    Metric,  # type: ignore[type-abstract]
    {
        "reward": "raft_core.metrics.reward:Reward",
        "gold_reward": "raft_core.metrics.reward:GoldReward",
        "divergence": "raft_core.metrics.divergence:Divergence",
        "perplexity": "raft_core.metrics.perplexity:Perplexity",
        "diversity": "raft_core.metrics.diversity:Diversity",
        "length": "raft_core.metrics.length:Length",
        "slices": "raft_core.metrics.slices:Slices",
        "ranking": "raft_core.metrics.ranking:Ranking",
        "training": "raft_core.metrics.training:Training",
    },
    _check,
)
METRIC = "metric."
"""What the code of a metric is pinned under, before its type; the name of a reward has no dot."""


@cache
def own() -> tuple[Metric, ...]:
    """Those that every report has, in the order in which they are shown and warn."""
    classes = METRICS.classes()
    return tuple(classes[kind](type=kind) for kind in METRICS.own)


def figures(more: Sequence[Metric] = ()) -> Iterator[Figure]:
    """Every figure of the report; ``more``: the metrics that ``evaluation.metrics`` adds."""
    for metric in (*own(), *more):
        yield from metric.figures


def in_table(shown: Iterable[Figure]) -> list[Figure]:
    """Those of a run's table, the most important first."""
    return sorted((figure for figure in shown if figure.rank is not None), key=lambda figure: figure.rank or 0)


def table_columns(shown: Iterable[Figure]) -> dict[str, int]:
    """Name → decimals of what stands in a run's table; of the first, both ends of its interval too."""
    return {
        f"{figure.name}{end}": figure.decimals
        for figure in in_table(shown)
        for end in (figure.ends if not figure.rank else ("",))
    }


def gates() -> Iterator[Gate]:
    """Every gate that has a key of its own, in the order in which they warn."""
    for metric in own():
        yield from metric.gates


def metric_sources(more: Sequence[Metric]) -> dict[str, dict[str, str]]:
    """Code of other packages that measures, in the form in which a run pins its rewards; empty for ours."""
    found = {f"{METRIC}{metric.type}": METRICS.sources(metric) for metric in more}
    return {name: sources for name, sources in found.items() if sources}
