"""Tombstones of outputs that ``raft gc`` removed: ``collected.json`` beside ``commit.json``.

It lists the removed outputs with the digests that the commit still names, so that a verification can tell *collected*
from *missing*. It has no time; when gc ran is in the event log.

gc and a running run exclude each other through a lock in the folder of runs, which every run shares.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from raft_core.errors import IntegrityError, RunBusyError
from raft_core.files.artifacts import write_json
from raft_core.files.locks import shared, try_exclusive
from raft_core.files.plain_json import read_json

FORMAT = 1
NAME = "collected.json"
LOCK = ".collecting.lock"


def collected(folder: Path) -> Mapping[str, str]:
    """Output → digest of what gc removed from an iteration's ``folder``; empty if it removed nothing.

    Raises IntegrityError for a tombstone that cannot be read.
    """
    outputs: Mapping[str, str] = read_tombstone(folder).get("outputs", {})
    return outputs


def read_tombstone(folder: Path) -> Mapping[str, Any]:
    """The content of the tombstone; empty if there is none. Raises IntegrityError if it cannot be read."""
    try:
        plain = read_json(folder / NAME)
        if plain["format"] != FORMAT or not isinstance(plain["outputs"], dict):
            raise ValueError(f"format {plain['format']}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"unreadable tombstone of raft gc: {folder / NAME}", got=error, hint="restore it from git"
        ) from error
    found: Mapping[str, Any] = plain
    return found


def write_tombstone(folder: Path, outputs: Mapping[str, str], dvc: Mapping[str, str]) -> None:
    """Record that ``outputs`` (name → sha256) were removed. ``dvc``: payload → md5 under which DVC had it."""
    write_json(folder / NAME, {"format": FORMAT, "outputs": dict(outputs), "dvc": dict(dvc)})


def block_gc(runs: Path) -> IO[str]:
    """A lock that running runs share: gc is refused until it is closed. Waits until a gc that is running ends."""
    return shared(runs / LOCK)


@contextmanager
def no_live_run(runs: Path) -> Iterator[None]:
    """Keep every run in ``runs`` from starting. Raises RunBusyError while a process uses one."""
    with try_exclusive(runs / LOCK) as alone:
        if not alone:
            raise RunBusyError(
                f"a run in {runs} is in use: it is being aligned, promoted or pulled",
                expected="no process that needs its files",
                hint="wait until it ends, or stop it and resume it afterwards; raft runs shows which run is running",
            )
        yield
