"""Tombstones of collected outputs: ``collected.json`` beside ``commit.json``.

It says that an output went on purpose (``raft gc``), under the digest that the commit still names, so
that a verification tells *collected* from *missing*. It holds no clock; when it happened is an event.

A collection and a live run exclude each other, by a lock of the folder of runs that every run shares.
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
    """Output → digest of what was collected from an iteration's ``folder``; empty if nothing was.

    Raises IntegrityError for a tombstone that cannot be read.
    """
    outputs: Mapping[str, str] = read_tombstone(folder).get("outputs", {})
    return outputs


def read_tombstone(folder: Path) -> Mapping[str, Any]:
    """All that the tombstone says; empty if there is none."""
    try:
        plain = read_json(folder / NAME)
        if plain["format"] != FORMAT or not isinstance(plain["outputs"], dict):
            raise ValueError(f"format {plain['format']}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"no tombstone: {folder / NAME}", got=error, hint="restore it from git") from error
    found: Mapping[str, Any] = plain
    return found


def write_tombstone(folder: Path, outputs: Mapping[str, str], dvc: Mapping[str, str]) -> None:
    """Say that ``outputs`` (name → sha256) went. ``dvc``: payload → md5 under which DVC had it."""
    write_json(folder / NAME, {"format": FORMAT, "outputs": dict(outputs), "dvc": dict(dvc)})


def nothing_collected(runs: Path) -> IO[str]:
    """A lock that live runs share: until it is closed nothing is collected. Waits for a collection to end."""
    return shared(runs / LOCK)


@contextmanager
def no_live_run(runs: Path) -> Iterator[None]:
    """Keep every run of the folder from being taken up. Raises RunBusyError while a process holds one."""
    with try_exclusive(runs / LOCK) as alone:
        if not alone:
            raise RunBusyError(
                f"a run in {runs} is being worked on, promoted or brought out",
                expected="nobody who needs its bytes",
                hint="wait for it, or stop it and resume it afterwards; `raft runs` names a live run",
            )
        yield
