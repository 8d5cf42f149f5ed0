"""What a training process held at most is told to the step that waited for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raft_core.launch import processes


@pytest.fixture(autouse=True, scope="module")
def light_server() -> Iterator[None]:
    processes.stop()
    processes.start([])
    yield
    processes.stop()


def test_the_peak_of_the_ranks_that_ended_is_told_once(tmp_path: Path) -> None:
    processes.run_ranks(exec, "pass", ranks=1, scratch=tmp_path / "small")
    idle_mb = processes.take_peak_memory_mb()
    assert idle_mb > 0
    assert processes.take_peak_memory_mb() == 0
    processes.run_ranks(exec, "b'x' * (300 << 20)", ranks=2, scratch=tmp_path / "large")
    assert idle_mb + 250 < processes.take_peak_memory_mb() < idle_mb + 400
