"""Locks: who keeps whom out, also processes that call ``flock`` by themselves, and what a kill leaves."""

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest

from raft_core.files.locks import exclusive, is_held, lock_open_file, share_open_file, shared, try_exclusive

Start = Callable[..., "Popen[str]"]

HOLDS = """
import sys
from pathlib import Path
from raft_core.files.locks import exclusive, shared
with {lock}(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lock"
    path.write_text("process 1 on somewhere")
    return path


def is_free(path: Path, kind: int = fcntl.LOCK_EX) -> bool:
    """What a version of RAFT sees that calls ``flock`` by itself."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def held_by(start_python: Start, path: Path, lock: str = "exclusive") -> "Popen[str]":
    process = start_python(HOLDS.format(lock=lock), path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_an_exclusive_lock_keeps_everybody_out(path: Path) -> None:
    with exclusive(path):
        assert not is_free(path)
        assert not is_free(path, fcntl.LOCK_SH)
        assert is_held(path)
        with try_exclusive(path) as ours:
            assert not ours
        assert is_held(path)
    assert is_free(path)
    assert not is_held(path)


def test_flock_of_another_version_keeps_it_out(path: Path) -> None:
    for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH):
        with path.open("a") as file:
            fcntl.flock(file, kind)
            with try_exclusive(path) as ours:
                assert not ours
            assert is_held(path) == (kind == fcntl.LOCK_EX)
        with try_exclusive(path) as ours:
            assert ours
            assert not is_free(path)
        assert is_free(path)


def test_shared_locks_are_held_together(path: Path) -> None:
    with shared(path), shared(path):
        assert is_free(path, fcntl.LOCK_SH)
        assert not is_free(path)
        assert not is_held(path)
    assert is_free(path)


def test_a_lock_file_keeps_its_text_and_stays(path: Path) -> None:
    before = path.stat().st_ino
    with exclusive(path):
        assert path.read_text() == "process 1 on somewhere"
    with try_exclusive(path), shared(path.with_name("other")):
        pass
    assert path.read_text() == "process 1 on somewhere"
    assert path.stat().st_ino == before
    assert not is_held(path.with_name("absent"))
    assert not path.with_name("absent").exists()


def test_waiting_ends_when_the_lock_is_free(path: Path) -> None:
    file = shared(path)
    threading.Timer(0.3, file.close).start()
    began = time.monotonic()
    with try_exclusive(path, wait_s=10) as ours:
        assert ours
    assert 0.2 < time.monotonic() - began < 5
    with shared(path):
        began = time.monotonic()
        with try_exclusive(path, wait_s=0.2) as ours:
            assert not ours
        assert 0.2 <= time.monotonic() - began < 5


@pytest.mark.parametrize("lock", ["exclusive", "shared"])
def test_a_kill_leaves_no_lock(path: Path, start_python: Start, lock: str) -> None:
    process = held_by(start_python, path, lock)
    assert not is_free(path)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    with try_exclusive(path, wait_s=5) as ours:
        assert ours


def test_an_error_inside_leaves_no_lock(path: Path) -> None:
    for lock in (exclusive, try_exclusive):
        with pytest.raises(RuntimeError, match="oops"), lock(path):
            raise RuntimeError("oops")
        assert is_free(path)


def test_an_open_file_is_locked_shared_and_locked_again(path: Path) -> None:
    with path.open("a") as file:
        lock_open_file(file)
        assert not is_free(path, fcntl.LOCK_SH)
        share_open_file(file)
        assert is_free(path, fcntl.LOCK_SH)
        assert not is_free(path)
        lock_open_file(file)
        assert not is_free(path, fcntl.LOCK_SH)
    assert is_free(path)


def test_a_folder_can_be_locked(tmp_path: Path) -> None:
    folder, again = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    lock_open_file(folder)
    with pytest.raises(BlockingIOError):
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
    lock_open_file(again)
    os.close(again)


FOR_LIFE = """
import gc, sys
from pathlib import Path
from raft_core.files.locks import share_for_life
share_for_life(Path(sys.argv[1]))
gc.collect()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_for_life_ends_with_the_process(path: Path, start_python: Start) -> None:
    process = start_python(FOR_LIFE, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert not is_free(path)
    assert is_free(path, fcntl.LOCK_SH)
    process.kill()
    process.communicate(timeout=30)
    assert is_free(path)
