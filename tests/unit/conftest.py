"""The smallest configuration that can run, as plain values and as a model."""

from collections.abc import Callable
from typing import Any

import pytest

from raft_core.config import RaftConfig
from raft_core.loading import check_config


@pytest.fixture
def plain_config() -> Callable[..., dict[str, Any]]:
    """``plain_config(sampling={…})``: dicts and lists as a YAML file would give them, parts replaced."""

    def build(**parts: Any) -> dict[str, Any]:
        return {
            "name": "small",
            "policy": {"model": "some/folder"},
            "prompts": {"train": "prompts.txt"},
            "scoring": {"rewards": [{"type": "lexicon"}]},
            **parts,
        }

    return build


@pytest.fixture
def checked_config(plain_config: Callable[..., dict[str, Any]]) -> Callable[..., RaftConfig]:
    """``plain_config`` checked."""
    return lambda **parts: check_config(plain_config(**parts), where="a test")
