"""The two default worlds: ``reviews`` (real parts that pip delivers) and ``tiny`` (made in place).

Nothing here imports torch before a stage is really built.
"""

from raft_core.embedded.location import cache_folder
from raft_core.embedded.stages import Progress, Receipt
from raft_core.embedded.worlds import dead_folders, prepare, resolve, worlds_of

__all__ = ["Progress", "Receipt", "cache_folder", "dead_folders", "prepare", "resolve", "worlds_of"]
