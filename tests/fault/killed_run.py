"""An alignment that kills itself with SIGKILL at one point.

``killed_run.py WORKSPACE CONFIG NAME [MODULE:FUNCTION:WHEN:NTH]``

WHEN is ``before`` or ``after`` the NTH call (from 1) of that function, or ``during``: a tenth of a
second after it began. Without a point it runs to the end. Run by test_kill.py as a child process.
"""

import functools
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


def arm(point: str) -> None:
    """Replace the function by one that pulls the trigger."""
    module_name, function_name, when, nth = point.split(":")
    module = importlib.import_module(module_name)
    function: Callable[..., Any] = getattr(module, function_name)
    calls = 0

    @functools.wraps(function)
    def armed(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != int(nth):
            return function(*args, **kwargs)
        if when == "before":
            die()
        if when == "during":
            threading.Timer(0.1, die).start()
        result = function(*args, **kwargs)
        die()
        return result

    setattr(module, function_name, armed)


def die() -> None:
    """No handler, no ``finally``, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    workspace, config_path, name, *points = sys.argv[1:]
    from flows.cli import ENVIRONMENT

    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    from flows.align import align_run
    from raft_core import embedded
    from raft_core.loading import load_config

    for point in points:
        arm(point)
    config = load_config(Path(config_path))
    for world in embedded.worlds_of(config):
        embedded.prepare(world)
    os.chdir(workspace)
    result = align_run(config, name=name, workspace=Path(workspace), tracking_uri=f"sqlite:///{workspace}/mlflow.db")
    print(result.status, result.best)


if __name__ == "__main__":
    main()
