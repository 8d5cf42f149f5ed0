"""The smallest configuration that can run, a run of it, and Python code in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from raft_core.config.loading import check_config
from raft_core.config.run import RaftConfig
from raft_core.records.run import Run, open_run

CHECKOUT = Path(__file__).parents[2]

# The same examples every time, and no clock: a busy machine must not fail a property.
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


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


@pytest.fixture
def fresh_run(tmp_path: Path, checked_config: Callable[..., RaftConfig]) -> Run:
    """A run without a commit."""
    return open_run(tmp_path / "runs", "one", checked_config())


@pytest.fixture
def start_python() -> Callable[..., "subprocess.Popen[str]"]:
    """``start_python(code, *arguments)``: a process that imports this checkout; its output is piped."""

    def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
