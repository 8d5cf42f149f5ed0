"""What runs and registered models are called: one rule for whoever writes or reads a name."""

import re
from pathlib import Path

from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")
"""Of a run that is there: its name is a folder's, and never leads elsewhere."""
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def check_run_name(name: str) -> str:
    """``name`` if a run may be called so. Raises ConfigError."""
    if RUN_NAME.fullmatch(name):
        return name
    raise ConfigError(
        f"{name!r} cannot name a run",
        expected="letters, digits, _ . - (at most 100), no dot in front",
        hint="choose another name",
    )


def check_new_run_name(runs: Path, name: str) -> str:
    """``name`` if a new run below ``runs`` may be called so, on any machine that the folder is copied to.

    Raises ConfigError for what a file system without upper and lower case, or Windows, takes for another name. Runs
    that are called so already stay readable.
    """
    check_run_name(name)
    if name.endswith(".") or name.split(".")[0].casefold() in _DEVICES:
        raise ConfigError(
            f"{name!r} cannot name a new run",
            expected="no dot at the end, and no device of Windows (con, nul, aux …)",
            hint="choose another name",
        )
    others = (path.name for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else ()
    if twin := next((other for other in others if other.casefold() == name.casefold() and other != name), None):
        raise ConfigError(
            f"{name!r} cannot name a new run beside {twin!r}: they differ by upper and lower case alone",
            hint="choose another name",
        )
    return name


def registered_name(config: RaftConfig) -> str:
    """What the registry calls the models that a configuration aligns."""
    return config.tracking.model_name or f"raft-{config.name}"
