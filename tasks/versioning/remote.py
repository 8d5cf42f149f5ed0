"""DVC's remote: push what it lacks, pull what is missing here.

A remote may hang, and DVC would wait forever. So transfers over the network run in a child process with a time limit;
the next transfer continues where it was cut off. Transfers to a folder run in this process.
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
"""Exit code of a child that rejected bytes from the remote."""

# DVC must not print on the terminal, where our own progress is shown.
ui.error_console = Console(stderr=True, quiet=True)
logging.getLogger("dvc").setLevel(logging.WARNING)
for _bars in ("dvc.progress", "dvc_data.callbacks"):  # DVC draws progress bars unless these loggers are quiet
    logging.getLogger(_bars).setLevel(logging.CRITICAL)


def push_to_remote(repo: Any, run: Run, pointers: Mapping[tuple[str, str], Path], *, look: bool) -> str | None:
    """Push the payloads of ``pointers`` ((path in the run, md5) → pointer). Returns why it failed, None if it did not.

    Skips what the event log says is there already; with ``look`` DVC asks the remote about everything.
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
        for path in _partial(repo) - partial:  # they would fill a disk that is full
            with suppress(OSError):
                path.unlink()
        why = f"{dvc_message(error)}" + (f" ({causes[0]})" if causes else "")
        return f"DVC did not push {len(waiting)} pointers to its remote; the next push includes them: {why}"
    record_event(run, "pushed", remote=_identity(repo), items=waiting)
    return None


def transfer(repo: Any, way: Literal["push", "pull"], pointers: Sequence[Path], limit_s: float) -> None:
    """``dvc push`` or ``dvc pull`` of ``pointers``. Raises DvcException, OSError or StepError.

    Raises IntegrityError for a pointer or listing that leads elsewhere, before anything is transferred.
    """
    targets = [str(pointer.resolve()) for pointer in pointers]
    if not _over_network(repo):
        _transfer(repo, way, targets)
        return
    in_child("tasks.versioning.remote", [way, *targets], Path(repo.root_dir), limit_s)


def _transfer(repo: Any, way: str, targets: Sequence[str]) -> None:
    """Check all listings, then transfer."""
    for target in targets:
        hold_listing(repo, pointer_md5(Path(target)), fetch=way == "pull")
    repo.push(targets=targets) if way == "push" else repo.pull(targets)


def in_child(module: str, arguments: Sequence[str], folder: Path, limit_s: float, stdin: str = "") -> str:
    """Run ``module OUR_PID arguments…`` in ``folder`` and return its output; it ends with us, or after ``limit_s``.

    Raises StepError with the first line of its standard error if it fails, or if it does not finish in time.
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
        raise StepError(
            f"the transfer with DVC's remote did not finish within {limit_s:.0f} s",
            hint="check that the remote answers; what was transferred is kept",
        ) from None
    finally:
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    if child.returncode == TAMPERED:
        raise IntegrityError(
            said.strip(), hint="restore it from another copy; do not trust other objects of this remote"
        )
    if child.returncode:
        raise StepError(said.strip().splitlines()[0] if said.strip() else f"{module} exited {child.returncode}")
    return answer


def dvc_message(error: BaseException) -> str:
    """DVC's message of a failure, with its cause."""
    cause = error.__cause__ or error.__context__
    return f"{error}" + (f" ({cause})" if cause else "")


def _partial(repo: Any) -> set[Path]:
    """Partial objects that DVC leaves in a folder when a copy fails."""
    return set() if _over_network(repo) else set(Path(repo.cloud.get_remote_odb().path).glob("??/.*.tmp"))


@contextmanager
def _heard() -> Iterator[list[str]]:
    """Collect DVC's error messages about single files, instead of printing them on the terminal."""
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
    """The child process: transfer, or print the reason of the failure on standard error."""
    with _heard() as causes:
        try:
            with opened(Path(), wait=True) as repo:
                _transfer(repo, way, targets)
        except Exception as error:  # stores raise many kinds of errors
            why = dvc_message(error) + (f" ({causes[0]})" if causes else "")
            print(" ".join(why.split()) or type(error).__name__, file=sys.stderr)
            return TAMPERED if isinstance(error, IntegrityError) else 1
    return 0


def _over_network(repo: Any) -> bool:
    return "://" in str(_remote(repo).get("url", ""))


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    sys.exit(main(*sys.argv[2:]))
