"""The selectors that a configuration can name: ours, and those of installed packages (``raft_core.plugins``)."""

from raft_core.plugins import Registry
from raft_core.selection.base import Selector

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
