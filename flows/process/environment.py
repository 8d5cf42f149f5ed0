"""What is read from the environment, and what is set there for the libraries that read it."""

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
"""Set unless the user set them: no library calls home, none talks over the progress bars, and no process that a library
starts (Prefect's engine, torchrun's ranks, multiprocessing's) looks for modules in the current folder.

OpenMP's threads spin 300,000 times before they sleep, by default: where they share a core, each waits for the other.
After a thousand, work on a shared core took a third to a hundredth of the time (docs/benchmarks.md). No sum changes
by it."""


def set_defaults() -> None:
    """Before any of those libraries is imported."""
    chosen = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()
    for key, value in DEFAULTS.items():
        if not (chosen and key == "GOMP_SPINCOUNT"):
            os.environ.setdefault(key, value)


def guard_secrets() -> None:
    """Keep what is secret in the environment, or looks secret, out of what libraries log and print (``secrecy``)."""
    from flows.process.secrecy import guard

    guard(os.environ)


def inherited(**more: str) -> dict[str, str]:
    """The environment of a child: ours, and ``more``."""
    return {**os.environ, **more}


def workspace_folder() -> Path:
    """Where runs/, mlflow.db and .dvc lie: RAFT_WORKSPACE, else the current directory."""
    return Path(os.environ.get("RAFT_WORKSPACE") or ".").expanduser().absolute()


def tracking_uri(workspace: Path) -> str:
    """MLFLOW_TRACKING_URI, else a sqlite file in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace / 'mlflow.db'}"


def ledger_uri(workspace: Path) -> str:
    """Where the ledger of promotions is kept: RAFT_LEDGER (a file, or postgresql://…), else in the workspace."""
    return os.environ.get("RAFT_LEDGER") or str(workspace / "ledger.jsonl")


def identity(by: str | None) -> str:
    """Who acts: ``--by``, else RAFT_USER, else the login name. Raises ConfigError for nobody."""
    from flows.text import person

    try:
        return person(by or os.environ.get("RAFT_USER") or getpass.getuser())
    except (KeyError, OSError):
        return person("")
