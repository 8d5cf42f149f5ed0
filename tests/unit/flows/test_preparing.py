"""Preparing an example is watched: a stage shows that it is alive, and one that is there says nothing."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from flows.loop import preparing
from flows.loop.preparing import prepare_example
from flows.process.progress import Advance, LineReporter, Reporter
from raft_core.errors import ConfigError
from raft_core.examples import tiny
from raft_core.examples.stages import Built, Progress


@pytest.fixture(autouse=True)
def _quick_ticks_and_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "TICK_S", 0.01)
    monkeypatch.setenv("RAFT_CACHE", str(tmp_path / "cache"))


class Watching(Reporter):
    """Keeps what it is told; ``alive`` is set by the first sign of life of a step."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.alive = threading.Event()

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "tokens") -> Iterator[Advance]:
        self.told.append(f"begin {label}")
        yield lambda done: self.alive.set()
        self.told.append(f"end {label}")

    def say(self, text: str) -> None:
        self.told.append(text)


def test_a_stage_that_takes_long_shows_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    watching, build = Watching(), tiny.build_data

    def slow(out: Path, inputs: dict[str, Path], progress: Progress) -> Built:
        assert watching.alive.wait(60), "no sign of life"
        return build(out, inputs, progress)

    monkeypatch.setattr(tiny, "build_data", slow)
    assert list(prepare_example("tiny", watching, ["data"])) == ["data"]
    label = "tiny · prepare data"
    assert watching.told == ["tiny: preparing data", f"begin {label}", f"end {label}"]

    again = Watching()
    assert list(prepare_example("tiny", again, ["data"])) == ["data"]
    assert again.told == []


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="mars"):
        prepare_example("mars", Reporter())
    with pytest.raises(ConfigError, match="no stage 'engine'"):
        prepare_example("tiny", Reporter(), ["engine"])


def test_a_log_gets_a_line_though_nothing_is_counted() -> None:
    now, out = 0.0, StringIO()
    with LineReporter(Console(file=out), lambda: now).step("tiny · prepare policy") as advance:
        now = 62.0
        advance(0)
    assert out.getvalue().splitlines() == [
        "tiny · prepare policy: 1 min 02 s so far",
        "tiny · prepare policy: 1 min 02 s",
    ]
