"""The connection to MLflow, and which MLflow run belongs to a run directory."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import mlflow
from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
    MLFLOW_TRACKING_URI,
)
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from raft_core.errors import StepError
from raft_core.files.locks import lock_open_file
from raft_core.records.run import BASE, Commit, Run
from tasks.tracking.locations import artifact_location, settle

PATIENCE = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 2, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR: 1, MLFLOW_HTTP_REQUEST_TIMEOUT: 10}
"""MLflow's own defaults wait for minutes; a run goes on without a server and fills in later."""

SQLITE = "sqlite:///"


def database(uri: str) -> Path | None:
    """The sqlite file that ``uri`` names, which may not exist; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


@contextmanager
def connected(uri: str) -> Iterator[MlflowClient]:
    """A client of the tracking server and registry at ``uri``.

    For that time it is MLflow's own address too: the registry looks models up there, whatever its client says.
    Raises StepError for whatever goes wrong: callers go on without, and call again later.
    """
    for variable, value in PATIENCE.items():
        if not variable.is_set():
            variable.set(value)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    outside = MLFLOW_TRACKING_URI.get()
    try:
        _create_store(uri)
        if uri.startswith(SQLITE):
            settle(Path(uri.removeprefix(SQLITE)))
        mlflow.set_tracking_uri(uri)
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    except (MlflowException, SQLAlchemyError, CommandError, OSError) as error:
        raise StepError(
            f"MLflow at {shown(uri)} did not take the records",
            got=str(error).splitlines()[0],
            hint="start it, or correct MLFLOW_TRACKING_URI; what is missing is filled in at the next chance",
        ) from error
    finally:
        mlflow.set_tracking_uri(None)
        if outside is not None:
            MLFLOW_TRACKING_URI.set(outside)


def shown(uri: str) -> str:
    """``uri`` without a password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def label(iteration: int) -> str:
    """``base``, ``000``, ``001``… in names of tags and artifacts."""
    return "base" if iteration == BASE else f"{iteration:03d}"


def experiment_id(client: MlflowClient, run: Run, uri: str) -> str:
    """The experiment that the configuration names, created if missing.

    With a sqlite file its artifacts lie beside that file. Raises StepError for a deleted one.
    """
    name = run.config.tracking.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_artifacts(uri)))
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise StepError(
            f"the MLflow experiment {name!r} is deleted",
            hint=f"mlflow experiments restore -x {found.experiment_id}, or choose another tracking.experiment",
        )
    return str(found.experiment_id)


def find_run(client: MlflowClient, experiment: str, run: Run, chain: Sequence[Commit]) -> Any | None:
    """The MLflow run of this alignment: the same name, the same base, and no commit that contradicts ``chain``."""
    wanted = f"tags.`raft.run_digest` = '{chain[0].digest}'"
    ours = {f"raft.commit.{label(commit.iteration)}": commit.digest for commit in chain}
    for found in client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"]):
        tags = found.data.tags
        if tags.get("raft.run") == run.name and all(tags.get(key, digest) == digest for key, digest in ours.items()):
            return found
    return None


def _create_store(uri: str) -> None:
    """Make a missing sqlite file with all its tables, then rename it.

    MLflow makes the tables in place, by dozens of migrations: two runs that start at once, or a kill, would leave a
    file that nothing can open again.
    """
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or path.exists():
        return
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        lock_open_file(folder)
        if not path.exists():
            aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            aside.unlink(missing_ok=True)
            MlflowClient(tracking_uri=f"{SQLITE}{aside}").search_experiments()
            aside.rename(path)
    finally:
        os.close(folder)


def _artifacts(uri: str) -> str | None:
    if not uri.startswith(SQLITE):
        return None
    return artifact_location(Path(uri.removeprefix(SQLITE)))
