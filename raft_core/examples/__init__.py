"""The two default worlds: ``reviews`` (real parts that pip delivers) and ``tiny`` (made in place).

Nothing here imports torch before a stage is really built.
"""

from raft_core.examples.location import cache_folder
from raft_core.examples.presets import dead_folders, prepare, resolve, worlds_of
from raft_core.examples.stages import Progress, Receipt

__all__ = ["Progress", "Receipt", "cache_folder", "dead_folders", "prepare", "resolve", "worlds_of"]
