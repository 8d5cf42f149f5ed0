"""An alignment in which one process is killed with SIGKILL at one point.

``killed_run.py WORKSPACE CONFIG NAME [MODULE:FUNCTION:WHEN:NTH[:VICTIM]]``

WHEN is ``before`` or ``after`` the NTH call (from 1) of that function (or Class.method), or in the middle of it:
``inside@K`` is the K-th call that is made below it, ``inside@NAME`` the first call of NAME below it (a qualified
name, as ``ParquetWriter.close``), ``during@S`` S seconds after it began. Where it is over before that comes, the
process is killed as it returns. The last thing it says is ``killed owner inside`` or ``killed owner outside`` of the
function. VICTIM is ``owner`` (this process, the default), or a child of it, whenever it is found: ``forkserver``,
``rank`` (a training process) or ``prefect`` (its temporary server). Without a point it runs to the end. Run as a
child process.
"""

import functools
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

WAIT_S = 20.0


def arm(point: str) -> None:
    """Replace the function by one that pulls the trigger."""
    module_name, path, when, nth, victim = [*point.split(":"), "owner"][:5]
    owner: Any = importlib.import_module(module_name)
    *classes, name = path.split(".")
    for part in classes:
        owner = getattr(owner, part)
    function: Callable[..., Any] = getattr(owner, name)
    calls = 0

    @functools.wraps(function)
    def armed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if nth != "*" and calls != int(nth):
            return function(*args, **kwargs)
        if when == "before":
            kill(victim)
        how, _, aim = when.partition("@")
        run = {"inside": until_a_call, "during": until_a_time}.get(how)
        result = run(aim, victim, function, args, kwargs) if run else function(*args, **kwargs)
        if when == "after" or victim == "owner":
            kill(victim)
        return result

    setattr(owner, name, armed)


def until_a_call(aim: str, victim: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Kill at a call that is made below ``function``: the one of that number, or the first of that name."""
    number, num_calls = int(aim) if aim.isdecimal() else None, 0

    def look(frame: FrameType, event: str, called: Any) -> None:
        nonlocal num_calls
        if event not in ("call", "c_call") or called is sys.setprofile:
            return
        num_calls += 1
        name = frame.f_code.co_qualname if event == "call" else getattr(called, "__qualname__", "")
        if num_calls == number or name == aim:
            kill(victim, "inside")

    sys.setprofile(look)
    try:
        return function(*args, **kwargs)
    finally:
        sys.setprofile(None)


def until_a_time(aim: str, victim: str, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Kill so many seconds after ``function`` began; this process only while it runs, a child whenever it is found."""
    running, ending = True, threading.Lock()

    def fire() -> None:
        if victim != "owner":
            return kill(victim)
        with ending:  # it cannot return before the signal has come
            if running:
                kill(victim, "inside")

    trigger = threading.Timer(float(aim), fire)
    trigger.daemon = True
    trigger.start()
    result = function(*args, **kwargs)
    with ending:
        running = False
    return result


def kill(victim: str, where: str = "outside") -> None:
    """No handler, no ``finally``, no flush. Waits for a child that is still to come."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if (pid := found(victim)) is not None:
            os.write(1, f"killed {victim} {where}\n".encode())
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def found(victim: str) -> int | None:
    if victim == "owner":
        return os.getpid()
    import psutil

    from raft_core.launch import processes

    server = processes._server
    with suppress(psutil.NoSuchProcess):
        if victim == "prefect":
            children = psutil.Process().children()
            return next((c.pid for c in children if "flows.orchestration.server" in c.cmdline()), None)
        if server is not None and victim == "forkserver":
            return server.process.pid
        if server is not None:
            return next((c.pid for c in psutil.Process(server.process.pid).children()), None)
    return None


def shift_clock(seconds: float) -> None:
    """What our records and MLflow take for now."""
    if not seconds:
        return
    from datetime import datetime, timedelta

    import raft_core.records.run

    real, real_ns = time.time, time.time_ns

    class Shifted(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(seconds=seconds)

    raft_core.records.run.datetime = Shifted
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1000000000.0)


def pretend_other_numerics() -> None:
    """Another version of torch, as far as the records know."""
    from raft_core.policies.text import backend

    real = backend.numerics
    backend.numerics = lambda dtype: {**real(dtype), "torch": "1.0"}


def main() -> None:
    workspace, config_path, name, *points = sys.argv[1:]
    from flows.process.environment import DEFAULTS

    for variable, value in DEFAULTS.items():
        os.environ.setdefault(variable, value)
    from flows.loop.align import align_run
    from flows.process.environment import tracking_uri
    from raft_core import examples
    from raft_core.config.loading import load_config

    for point in points:
        arm(point)
    shift_clock(float(os.environ.get("RAFT_CLOCK_SHIFT", "0")))
    if os.environ.get("RAFT_OTHER_NUMERICS"):
        pretend_other_numerics()
    config = load_config(Path(config_path))
    for example in examples.examples_of(config):
        examples.prepare(example)
    os.chdir(workspace)
    result = align_run(config, name=name, workspace=Path(workspace), tracking_uri=tracking_uri(Path(workspace)))
    print(result.status, result.best)


if __name__ == "__main__":
    main()
