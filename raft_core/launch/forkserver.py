"""The fork server of ``raft_core.launch.processes``: imports the heavy libraries once, then forks a child per request.

``launch.children`` runs it as ``raft_core.launch.forkserver CONNECTION OWNER MODULE…``: file descriptor of a socket,
process id of the owner, and the modules to import ("!MODULE": a module that must not be imported). Nothing here
creates a tensor before a fork, so a child starts in milliseconds and can still use any device.

``multiprocessing``'s fork server is not used because it is shared by the whole process, imports the owner's main module
again in every child (which runs scripts without a ``__main__`` guard twice), gives children the owner's output, and
lets them outlive the owner.
"""

import ctypes
import gc
import importlib
import io
import json
import os
import pickle
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from raft_core.errors import RaftError
from raft_core.files.locks import share_for_life

PR_SET_PDEATHSIG = 1
OWNER_DIED = 113
"""Exit code of a child whose owner is dead."""
DISK_FULL = 74
"""Exit code of a child that could not write, not even its error."""


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """One child: call ``function(argument)`` with this environment, number of threads, log, error file and lock."""

    function: Callable[[Any], None]
    argument: Any
    environment: Mapping[str, str]
    threads: int
    log: Path
    error: Path
    lock: Path | None


def serve(connection: Connection, owner: int, modules: list[str]) -> None:
    """Import ``modules``, then fork for every request until the owner closes the connection or dies."""
    if os.getppid() != owner:
        return
    owner_fd = os.pidfd_open(owner) if hasattr(os, "pidfd_open") else None
    try:
        _import_heavy(modules)
        connection.send(("ready", os.getpid()))
    except BaseException:
        connection.send(("broken", traceback.format_exc()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    children: set[int] = set()
    watched: list[Connection | int] = [connection, woken, *([owner_fd] if owner_fd is not None else [])]
    try:
        while True:
            ready = wait(watched)
            if owner_fd in ready:
                return
            if woken in ready:
                os.read(woken, 4096)
                _report_ended(connection, children)
            if connection in ready:
                _fork(connection, children, owner_fd)
    except (EOFError, OSError):
        return
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _fork(connection: Connection, children: set[int], owner_fd: int | None) -> None:
    request: ForkRequest = pickle.loads(connection.recv_bytes())
    server = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_child(request, server, owner_fd, connection)
    children.add(pid)
    connection.send(("started", pid))


def _report_ended(connection: Connection, children: set[int]) -> None:
    for pid in list(children):
        ended, status, used = os.wait4(pid, os.WNOHANG)
        if ended:
            children.discard(pid)
            peak_mb = used.ru_maxrss // (1 << 20 if sys.platform == "darwin" else 1 << 10)
            connection.send(("ended", (pid, os.waitstatus_to_exitcode(status), peak_mb)))


def _become_child(request: ForkRequest, server: int, owner_fd: int | None, connection: Connection) -> None:
    """Run the request in the child; never returns, so that the server's loop does not run there."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        connection.close()
        _redirect_output(request.log)
        hold_lock(request.lock)
        die_with_parent(server)
        if owner_fd is not None and select.select([owner_fd], [], [], 0)[0]:
            os._exit(OWNER_DIED)
        os.environ.update(request.environment)
        importlib.import_module("torch").set_num_threads(request.threads)
        request.function(request.argument)
        code = 0
    except BaseException as error:
        code = DISK_FULL if "No space left on device" in str(error) else 1
        with suppress(OSError):
            request.error.write_text(json.dumps(describe(error)))
        with suppress(OSError):
            traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def describe(error: BaseException) -> dict[str, Any]:
    """An exception as JSON: a RaftError with its parts, any other with its traceback."""
    if isinstance(error, RaftError):
        parts = {"what": error.what, "got": error.got, "expected": error.expected, "hint": error.hint}
        return {"kind": type(error).__name__, **{k: v if v is None else str(v) for k, v in parts.items()}}
    kind = "MemoryError" if isinstance(error, MemoryError) else "other"
    return {"kind": kind, "traceback": "".join(traceback.format_exception(error))}


def hold_lock(path: Path | None) -> None:
    """Take the shared lock; the kernel releases it when this process ends."""
    if path is not None:
        share_for_life(path)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends; end now if it already did."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(OWNER_DIED)


def _redirect_output(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = io.TextIOWrapper(open(1, "wb", 0, closefd=False), line_buffering=True)  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), line_buffering=True)  # noqa: SIM115


def _import_heavy(modules: list[str]) -> None:
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for module in modules:
        if module.startswith("!"):
            sys.modules[module[1:]] = None  # type: ignore[assignment]
    for module in modules:
        if not module.startswith("!"):
            importlib.import_module(module)
    gc.freeze()


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])
