"""Resolve what a configuration names: a path, or an asset of one of the examples."""

from importlib import import_module
from pathlib import Path

PREFIX = "example:"
FORMER_PREFIX = "embedded:"
"""The prefix in runs of earlier versions, which can still be resumed."""


def split_reference(reference: str) -> tuple[str, str] | None:
    """(example, asset) of ``example:EXAMPLE/ASSET``; None for a path."""
    for prefix in (PREFIX, FORMER_PREFIX):
        if reference.startswith(prefix):
            example, _, asset = reference.removeprefix(prefix).partition("/")
            return example, asset
    return None


def resolve(reference: str) -> Path:
    """The path of ``example:EXAMPLE/ASSET``; any other string is returned as a path.

    Prepares nothing. Raises ExampleError for an asset that is not prepared, ConfigError for one that does not exist.
    """
    if split_reference(reference) is None:
        return Path(reference)
    # Imported by name: a step's key covers the content of its inputs, so it need not cover the code of the examples.
    found: Path = import_module("raft_core.examples.presets").resolve(reference)
    return found
