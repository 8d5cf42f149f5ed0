"""The two examples: ``reviews`` (a real model and real data, downloaded by pip) and ``tiny`` (generated locally).

Nothing here imports torch until a stage is built.
"""

from raft_core.examples.location import cache_folder
from raft_core.examples.presets import dead_folders, examples_of, prepare, resolve
from raft_core.examples.stages import Progress, Receipt

__all__ = ["Progress", "Receipt", "cache_folder", "dead_folders", "examples_of", "prepare", "resolve"]
