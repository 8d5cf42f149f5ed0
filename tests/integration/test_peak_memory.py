"""What a training process held at most is told to the step that waited for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raft_core import launch


@pytest.fixture(autouse=True, scope="module")
def light_server() -> Iterator[None]:
    launch.stop()
    launch.start([])
    yield
    launch.stop()


def test_the_peak_of_the_ranks_that_ended_is_told_once(tmp_path: Path) -> None:
    launch.run_ranks(exec, "pass", ranks=1, scratch=tmp_path / "small")
    idle_mb = launch.take_peak_memory_mb()
    assert idle_mb > 0
    assert launch.take_peak_memory_mb() == 0
    launch.run_ranks(exec, "b'x' * (300 << 20)", ranks=2, scratch=tmp_path / "large")
    assert idle_mb + 250 < launch.take_peak_memory_mb() < idle_mb + 400
