"""DVC's remote: send what has not arrived there, bring back what is not here.

A remote may hang, and DVC waits for it without end. So whatever crosses the network is done by a child
process, with a time limit of ours; DVC goes on where it was cut off. A folder is used in this process.
"""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from dvc.exceptions import DvcException
from dvc.ui import ui
from rich.console import Console

from raft_core.errors import IntegrityError, StepError
from raft_core.launch.children import python_module
from raft_core.launch.forkserver import die_with_parent
from raft_core.records.run import Run, read_events, record_event
from raft_core.types import content_id
from tasks.versioning.listing import hold_listing, pointer_md5
from tasks.versioning.repository import opened

PULL_LIMIT_S = 3600
TAMPERED = 65
"""Exit code of a child that refused what the remote gave it."""

# DVC as a library draws nothing on the terminal: it is in the middle of our own progress.
ui.error_console = Console(stderr=True, quiet=True)
logging.getLogger("dvc").setLevel(logging.WARNING)
for _bars in ("dvc.progress", "dvc_data.callbacks"):  # DVC draws its bars unless these say that they are quiet
    logging.getLogger(_bars).setLevel(logging.CRITICAL)


def push_to_remote(repo: Any, run: Run, pointers: Mapping[tuple[str, str], Path], *, look: bool) -> str | None:
    """Send what ``pointers`` ((path in the run, md5) → pointer) stand for. Returns why it could not be done.

    Only what the event log does not know to be there; with ``look`` the remote itself is asked about everything.
    """
    done = set() if look else _pushed(repo, run)
    waiting = [item for item in pointers if item not in done]
    if not waiting:
        return None
    partial = _partial(repo)
    try:
        with _heard() as causes:
            transfer(repo, "push", [pointers[item] for item in waiting], run.config.versioning.push_limit_s)
    except (DvcException, OSError, StepError) as error:
        for path in _partial(repo) - partial:  # where the disk is full they would fill it
            with suppress(OSError):
                path.unlink()
        why = f"{told(error)}" + (f" ({causes[0]})" if causes else "")
        return f"DVC did not push {len(waiting)} pointers; the next push makes up for it: {why}"
    record_event(run, "pushed", remote=_identity(repo), items=waiting)
    return None


def transfer(repo: Any, way: Literal["push", "pull"], pointers: Sequence[Path], limit_s: float) -> None:
    """``dvc push`` or ``dvc pull`` of ``pointers``. Raises DvcException, OSError or StepError.

    And IntegrityError for a pointer or listing that leads elsewhere, before anything is transferred.
    """
    targets = [str(pointer.resolve()) for pointer in pointers]
    if not _over_network(repo):
        _transfer(repo, way, targets)
        return
    in_child("tasks.versioning.remote", [way, *targets], Path(repo.root_dir), limit_s)


def _transfer(repo: Any, way: str, targets: Sequence[str]) -> None:
    """Of the listings, only such as lead nowhere else come here or go from here."""
    for target in targets:
        hold_listing(repo, pointer_md5(Path(target)), fetch=way == "pull")
    repo.push(targets=targets) if way == "push" else repo.pull(targets)


def in_child(module: str, arguments: Sequence[str], folder: Path, limit_s: float, stdin: str = "") -> str:
    """What ``module OUR_PID arguments…`` prints, run in ``folder``; it dies with us, or after ``limit_s``.

    Raises StepError if it fails, with the first line that it said, or does not finish.
    """
    child = subprocess.Popen(
        python_module(module, str(os.getpid()), *arguments),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        answer, said = child.communicate(stdin, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise StepError(f"the remote did not finish within {limit_s:.0f} s") from None
    finally:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode == TAMPERED:
        raise IntegrityError(said.strip(), hint="trust nothing else from there; restore it from another copy")
    if child.returncode:
        raise StepError(said.strip().splitlines()[0] if said.strip() else f"{module} exited {child.returncode}")
    return answer


def told(error: BaseException) -> str:
    """What DVC says of a failure, with its cause."""
    cause = error.__cause__ or error.__context__
    return f"{error}" + (f" ({cause})" if cause else "")


def _partial(repo: Any) -> set[Path]:
    """Beginnings of objects that DVC leaves in a folder when a copy fails."""
    return set() if _over_network(repo) else set(Path(repo.cloud.get_remote_odb().path).glob("??/.*.tmp"))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Why files could not be transferred, in place of an error of DVC a file on the terminal."""
    causes: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            error = record.exc_info[1] if record.exc_info else None
            causes.append(getattr(error, "strerror", None) or str(error or record.getMessage()))

    loggers = [logging.getLogger(name) for name in ("dvc", "dvc_data", "dvc_objects")]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [Listener(logging.ERROR)], False
    try:
        yield causes
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate


def _pushed(repo: Any, run: Run) -> set[tuple[str, str]]:
    remote = _identity(repo)
    events = (event for event in read_events(run, "pushed") if event["remote"] == remote)
    return {(path, md5) for event in events for path, md5 in event["items"]}


def _identity(repo: Any) -> str:
    return content_id("remote", repr(sorted(_remote(repo).items())))


def _remote(repo: Any) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = repo.config["remote"].get(repo.config["core"].get("remote"), {})
    return settings


def main(way: str, *targets: str) -> int:
    """The child: transfers, or says on standard error why not."""
    with _heard() as causes:
        try:
            with opened(Path(), wait=True) as repo:
                _transfer(repo, way, targets)
        except Exception as error:  # whatever a store raises: its kinds are beyond counting
            why = told(error) + (f" ({causes[0]})" if causes else "")
            print(" ".join(why.split()) or type(error).__name__, file=sys.stderr)
            return TAMPERED if isinstance(error, IntegrityError) else 1
    return 0


def _over_network(repo: Any) -> bool:
    return "://" in str(_remote(repo).get("url", ""))


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.exit(main(*sys.argv[2:]))
