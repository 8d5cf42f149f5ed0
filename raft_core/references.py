"""What a configuration names: a path, or something that one of the project's own examples provides."""

from importlib import import_module
from pathlib import Path

PREFIX = "example:"
FORMER_PREFIX = "embedded:"
"""What runs of earlier versions wrote; they go on under it."""


def split_reference(reference: str) -> tuple[str, str] | None:
    """(example, asset) of ``example:EXAMPLE/ASSET``; None: a path."""
    for prefix in (PREFIX, FORMER_PREFIX):
        if reference.startswith(prefix):
            example, _, asset = reference.removeprefix(prefix).partition("/")
            return example, asset
    return None


def resolve(reference: str) -> Path:
    """The path behind ``example:EXAMPLE/ASSET``; any other string is a path and returned as it is.

    Prepares nothing. Raises ExampleError for an asset that is not prepared, ConfigError for one that does not exist.
    """
    if split_reference(reference) is None:
        return Path(reference)
    # By its name, since what a step reads is a part of its key by content: the code of the examples need not be.
    found: Path = import_module("raft_core.examples.presets").resolve(reference)
    return found
