"""The losses that a configuration can name: ours, and those of installed packages (``raft_core.plugins``)."""

from raft_core.losses.base import Loss
from raft_core.plugins import Registry

LOSSES = Registry(
    "raft.losses",
    Loss,  # type: ignore[type-abstract]
    {"raft": "raft_core.losses.raft:Raft"},
)
LOSS = "loss."
"""What the code of a loss is pinned under, before its type; the name of a reward has no dot."""


def loss_sources(loss: Loss) -> dict[str, dict[str, str]]:
    """Code of another package that trains, in the form in which a run pins its rewards; empty for our own."""
    sources = LOSSES.sources(loss)
    return {f"{LOSS}{loss.type}": sources} if sources else {}
