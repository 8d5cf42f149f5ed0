"""Undo what a user's code changes in the process when the code returns.

This covers the current directory, ``sys.path``, the environment, standard streams, signal handlers, the locale, and
torch's settings (dtype, threads, gradients, determinism): a change of any of them could alter or end the run.
What *loading* a reward changes in directory, path and environment is set again whenever the reward is called, as its
author expects. Standard input is empty, so that a reward cannot wait for input or consume input meant for the run.

The state of random generators is not restored: nothing in a run uses a global one.
"""

import locale
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

_ONE_AT_A_TIME = threading.RLock()
"""This state belongs to the process, so only one reward runs at a time."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class Surroundings:
    """The process state for one reward; holds state because loading the reward determines it.

    ``folder``: where relative paths start; imports look there after all installed packages.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path: list[str] | None = None
        self.environment: dict[str, str | None] = {}

    @contextmanager
    def entered(self, *, keep: bool = False) -> Iterator[None]:
        """Run the block with this process state, and restore the process afterwards. With ``keep`` the changes that
        the block made are set again the next time."""
        with _ONE_AT_A_TIME, ExitStack() as after:
            for guard in (_current_folder, _streams, _signals, _locale, _torch):
                after.enter_context(guard())
            path, environment = list(sys.path), dict(os.environ)
            after.callback(_set_environment, environment)
            after.callback(sys.path.__setitem__, slice(None), path)
            os.chdir(self.folder)
            sys.path[:] = self.path or [*path, self.folder]
            _change_environment(self.environment)
            try:
                yield
            finally:
                if keep:
                    with suppress(OSError):
                        self.folder = os.getcwd()
                    self.path = list(sys.path)
                    now = dict(os.environ)
                    self.environment = {
                        name: now.get(name)
                        for name in now.keys() | environment.keys()
                        if now.get(name) != environment.get(name)
                    }


def _set_environment(wanted: dict[str, str]) -> None:
    now = dict(os.environ)
    if now != wanted:
        _change_environment({**dict.fromkeys(now.keys() - wanted.keys()), **wanted})


def _change_environment(changes: dict[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        elif os.environ.get(name) != value:
            os.environ[name] = value


@contextmanager
def _current_folder() -> Iterator[None]:
    before = os.getcwd()
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _streams() -> Iterator[None]:
    """Empty standard input, also for child processes; restore streams that the code replaced."""
    before = sys.stdin, sys.stdout, sys.stderr
    with open(os.devnull, encoding="utf-8") as empty, ExitStack() as after:
        with suppress(OSError):  # a service may not have a standard input
            kept = os.dup(0)
            after.callback(os.close, kept)
            os.dup2(empty.fileno(), 0)
            after.callback(os.dup2, kept, 0)
        sys.stdin = empty
        try:
            yield
        finally:
            sys.stdin, sys.stdout, sys.stderr = before


@contextmanager
def _signals() -> Iterator[None]:
    """Restore the handlers of Ctrl-C and SIGTERM, and cancel alarms that the code has set."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    alarm, _ = signal.getitimer(signal.ITIMER_REAL)
    try:
        yield
    finally:
        if not alarm or signal.getsignal(signal.SIGALRM) != before[signal.SIGALRM]:
            signal.setitimer(signal.ITIMER_REAL, alarm)
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)


@contextmanager
def _locale() -> Iterator[None]:
    before = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != before:
            locale.setlocale(locale.LC_ALL, before)


@contextmanager
def _torch() -> Iterator[None]:
    """Restore torch's settings, if torch is loaded: a reward must not change them for the training."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "set_default_dtype"):
        yield
        return
    settings: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    )
    before = [read() for read, _ in settings]
    try:
        yield
    finally:
        for (read, write), value in zip(settings, before, strict=True):
            if read() != value:
                write(value)
