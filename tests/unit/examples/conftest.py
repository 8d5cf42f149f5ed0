"""A cache of its own for every test, and stages written on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def example_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("RAFT_CACHE", str(folder))
    return folder


@pytest.fixture
def write_stage_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a module with a stage's function where this process, and those that it starts, import it."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")

    def write(name: str, source: str) -> None:
        (folder / f"{name}.py").write_text(source)

    return write
