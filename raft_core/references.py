"""What a configuration names: a path, or a part of the project's own examples."""

from importlib import import_module
from pathlib import Path

PREFIX = "embedded:"


def resolve(reference: str) -> Path:
    """The path behind ``embedded:WORLD/PART``; any other string is a path and returned as it is.

    Prepares nothing. Raises PartsError for a part that is not prepared, ConfigError for one that does not exist.
    """
    if not reference.startswith(PREFIX):
        return Path(reference)
    # By its name, since what a step reads is a part of its key by content: the code of the examples need not be.
    found: Path = import_module("raft_core.examples.presets").resolve(reference)
    return found
