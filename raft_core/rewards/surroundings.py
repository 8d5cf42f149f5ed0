"""What a user's code finds in the process, and may change there: nothing of it stays when the code returns.

The current folder, ``sys.path``, the environment, standard streams, handlers of signals, the locale, and torch's
settings (dtype, threads, gradients, determinism): each of them would change or end what the run does next. What
*loading* a reward changes in folder, path and environment holds again whenever the reward is called, as its author
expects. Standard input is empty: a reward must not wait for a person, nor eat the answer meant for a question.

The state of random generators is left alone: nothing in a run draws from a global one.
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
"""What is guarded belongs to the process, so one reward runs at a time."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


class Surroundings:
    """What one reward finds; holds state because loading the reward settles it.

    ``folder``: the one that relative paths begin from; imports look there after everything installed.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.path: list[str] | None = None
        self.environment: dict[str, str | None] = {}

    @contextmanager
    def entered(self, *, keep: bool = False) -> Iterator[None]:
        """Run the block in these surroundings, and put the process back after it. ``keep``: as the block left them
        they are found the next time."""
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
    """Standard input is empty, for child processes too; the streams that the code put in place go again."""
    before = sys.stdin, sys.stdout, sys.stderr
    with open(os.devnull, encoding="utf-8") as empty, ExitStack() as after:
        with suppress(OSError):  # a service may have no standard input at all
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
    """Ctrl-C and SIGTERM go on ending the run as they did, and no alarm is left to go off."""
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
    """Where torch is loaded already: a reward that sets it up for itself must not set it up for the training."""
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
