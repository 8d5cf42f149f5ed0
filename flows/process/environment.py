"""Environment variables: the ones we read, and those we set for libraries."""

import getpass
import os
from pathlib import Path

DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONSAFEPATH": "1",
    "GOMP_SPINCOUNT": "1000",
}
"""Set unless the user set them: libraries send no telemetry and do not print over progress bars, and processes that
they start (Prefect's engine, torchrun's ranks, multiprocessing) do not look for modules in the current folder.

OpenMP's threads spin 300,000 times by default before they sleep, so threads that share a core wait for each other. With
a thousand, work on a shared core took a third to a hundredth of the time (docs/benchmarks.md). No result changes."""


def set_defaults() -> None:
    """Set ``DEFAULTS``; call it before any of those libraries is imported."""
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    for key, value in DEFAULTS.items():
        if not (chosen and key == "GOMP_SPINCOUNT"):
            os.environ.setdefault(key, value)


def guard_secrets() -> None:
    """Hide the secrets of the environment in everything that libraries log and print (see ``secrecy``)."""
    from flows.process.secrecy import guard

    guard(os.environ)


def inherited(**more: str) -> dict[str, str]:
    """The environment of a child process: ours, and ``more``."""
    return {**os.environ, **more}


def workspace_folder() -> Path:
    """The folder of runs/, mlflow.db and .dvc: RAFT_WORKSPACE, or the current directory."""
    return Path(os.environ.get("RAFT_WORKSPACE") or ".").expanduser().absolute()


def tracking_uri(workspace: Path) -> str:
    """MLFLOW_TRACKING_URI, or an sqlite file in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace / 'mlflow.db'}"


def ledger_uri(workspace: Path) -> str:
    """The ledger of promotions: RAFT_LEDGER (a file, or postgresql://…), or a file in the workspace."""
    return os.environ.get("RAFT_LEDGER") or str(workspace / "ledger.jsonl")


def identity(by: str | None) -> str:
    """Who acts: ``--by``, RAFT_USER, or the login name. Raises ConfigError if there is none."""
    from flows.text import person

    try:
        return person(by or os.environ.get("RAFT_USER") or getpass.getuser())
    except (KeyError, OSError):
        return person("")
