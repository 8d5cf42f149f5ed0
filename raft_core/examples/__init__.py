"""The two default examples: ``reviews`` (real packages that pip delivers) and ``tiny`` (made in place).

Nothing here imports torch before a stage is really built.
"""

from raft_core.examples.location import cache_folder
from raft_core.examples.presets import dead_folders, examples_of, prepare, resolve
from raft_core.examples.stages import Progress, Receipt

__all__ = ["Progress", "Receipt", "cache_folder", "dead_folders", "examples_of", "prepare", "resolve"]
