"""Names of runs and registered models: the rules for reading and for creating one."""

import re
from pathlib import Path

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")
"""Pattern of a run's name: a plain folder name that cannot lead to another folder."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def check_run_name(name: str) -> str:
    """``name`` if it is a valid name of a run. Raises ConfigError."""
    if RUN_NAME.fullmatch(name):
        return name
    run, at, _ = name.partition("@")
    raise ConfigError(
        f"{name!r} is not a valid name of a run",
        expected="at most 100 letters, digits, _ . or -, beginning with a letter or digit",
        hint=f"write the run alone, without an iteration: {run}"
        if at and RUN_NAME.fullmatch(run)
        else "use another name",
    )


def check_new_run_name(runs: Path, name: str) -> str:
    """``name`` if a new run in ``runs`` may have it on any machine that the folder is copied to.

    Raises ConfigError for a name that Windows, or a file system that ignores case, takes for another one. Existing runs
    with such names stay readable.
    """
    check_run_name(name)
    if name.endswith(".") or name.split(".")[0].casefold() in _DEVICES:
        raise ConfigError(
            f"{name!r} is not a valid name of a new run",
            expected="a name without a dot at its end that is not a device of Windows (con, nul, aux …)",
            hint="choose another name",
        )
    others = (path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else ()
    if twin := next((other for other in others if other.casefold() == name.casefold() and other != name), None):
        raise ConfigError(
            f"{name!r} is not a valid name of a new run: it differs from the existing run {twin!r} only in case",
            expected="a name that differs from other runs on a file system that ignores case",
            hint="choose another name",
        )
    return name


def registered_name(config: RaftConfig) -> str:
    """Name of the registered model that a configuration aligns."""
    return config.tracking.model_name or f"raft-{config.name}"
