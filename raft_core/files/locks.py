"""Every lock of a file, all of them ``flock``: the kernel drops it when its owner ends, so a kill leaves none behind.

Exclusive locks are those of ``filelock``: the same system call on the same file, which is neither truncated nor
removed. Shared locks are made here: filelock's own need SQLite or marker files, and do not use ``flock``.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout, lock_descriptor

POLL_S = 0.05
"""How often a waiting process tries an exclusive lock again."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``path`` alone; waits for as long as another process holds it."""
    with _file_lock(path):
        yield


@contextmanager
def try_exclusive(path: Path, *, wait_s: float = 0.0) -> Iterator[bool]:
    """Hold the lock file ``path`` alone if it is free within ``wait_s`` seconds; yields whether it is held."""
    lock = _file_lock(path)
    with suppress(Timeout):
        lock.acquire(timeout=wait_s)
    try:
        yield lock.is_locked
    finally:
        lock.release()


def lock_open_file(file: int | IO[Any]) -> None:
    """Lock what the caller opened, alone: a folder, or a file that is written through ``file``. Closing it unlocks it.

    A shared lock that ``file`` had becomes this one. Waits for as long as another process holds it.
    """
    lock_descriptor(_descriptor(file), poll_interval=POLL_S)


def share_open_file(file: int | IO[Any]) -> None:
    """Share the lock of what the caller opened; an exclusive one becomes shared, but another may come in between."""
    fcntl.flock(_descriptor(file), fcntl.LOCK_SH)


def shared(path: Path) -> IO[str]:
    """A shared lock of the file ``path``, held until the returned file is closed."""
    file = path.open("a")
    share_open_file(file)
    return file


def share_for_life(path: Path) -> None:
    """Share the lock of the file ``path`` until this process ends, however it ends."""
    share_open_file(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file ``path`` alone. Needs no right to write."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _file_lock(path: Path) -> FileLock:
    # preserve_lock_file: never a marker file instead of flock. thread_local: another thread may let go of it.
    return FileLock(path, poll_interval=POLL_S, preserve_lock_file=True, thread_local=False)


def _descriptor(file: int | IO[Any]) -> int:
    return file if isinstance(file, int) else file.fileno()
