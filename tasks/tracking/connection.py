"""Connect to MLflow, and find the MLflow run of a run directory.

An sqlite file of MLflow holds absolute artifact paths, in ``mlartifacts`` beside it. If the workspace was moved or
copied, the paths are corrected before MLflow reads them.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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

PATIENCE = {MLFLOW_HTTP_REQUEST_MAX_RETRIES: 2, MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR: 1, MLFLOW_HTTP_REQUEST_TIMEOUT: 10}
"""MLflow's own defaults wait for minutes; a run continues without the server and catches up later."""

SQLITE = "sqlite:///"


def database(uri: str) -> Path | None:
    """The sqlite file that ``uri`` names, whether it exists or not; None for a server."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


@contextmanager
def connected(uri: str) -> Iterator[MlflowClient]:
    """A client of the tracking server and registry at ``uri``.

    ``uri`` is also MLflow's global tracking URI inside the block, since the registry looks models up there in any case.
    Raises StepError for every failure, so that callers can continue and try again later.
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
            f"MLflow at {shown(uri)} cannot be reached or rejected the records",
            got=str(error).splitlines()[0],
            hint="start the server or correct MLFLOW_TRACKING_URI, then run raft sync to log what is missing",
        ) from error
    finally:
        mlflow.set_tracking_uri(None)
        if outside is not None:
            MLFLOW_TRACKING_URI.set(outside)


def shown(uri: str) -> str:
    """``uri`` without user and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def label(iteration: int) -> str:
    """An iteration in names of tags and artifacts: ``base``, ``000``, ``001``…"""
    return "base" if iteration == BASE else f"{iteration:03d}"


def experiment_id(client: MlflowClient, run: Run, uri: str) -> str:
    """The experiment that the configuration names, created if missing.

    With an sqlite file, artifacts are stored beside it. Raises StepError if the experiment was deleted.
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
            f"the MLflow experiment {name!r} was deleted",
            hint=f"run mlflow experiments restore -x {found.experiment_id}, or set another tracking.experiment",
        )
    return str(found.experiment_id)


def find_run(client: MlflowClient, experiment: str, run: Run, chain: Sequence[Commit]) -> Any | None:
    """The MLflow run of this alignment: same name, same base, no commit that contradicts ``chain``. None if missing."""
    wanted = f"tags.`raft.run_digest` = '{chain[0].digest}'"
    ours = {f"raft.commit.{label(commit.iteration)}": commit.digest for commit in chain}
    for found in client.search_runs([experiment], wanted, order_by=["attributes.start_time ASC"]):
        tags = found.data.tags
        if tags.get("raft.run") == run.name and all(tags.get(key, digest) == digest for key, digest in ours.items()):
            return found
    return None


def _create_store(uri: str) -> None:
    """Create a missing sqlite file with all its tables under another name, then rename it.

    MLflow creates the tables in place with dozens of migrations: two runs that start at the same time, or a kill,
    would leave a file that cannot be opened again.
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


# -- paths of artifacts in a moved workspace ------------------------------------------------------

ARTIFACTS = "mlartifacts"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
WAIT_S = 30


def artifact_location(database: Path) -> str:
    """The artifact location of experiments created in the sqlite file ``database``."""
    return (database.resolve().parent / ARTIFACTS).as_uri()


def settle(database: Path) -> int:
    """Correct artifact paths of a moved workspace, in one transaction; returns how many were changed.

    Raises OSError if the file cannot be read or written.
    """
    if not (database.resolve().parent / ARTIFACTS).is_dir():
        return 0
    here, changed = artifact_location(database), 0
    try:
        with closing(sqlite3.connect(database, timeout=WAIT_S)) as connection, connection:
            found = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
            for (there,) in found:
                if there == here or not str(there).startswith("file://") or not there.endswith(f"/{ARTIFACTS}"):
                    continue
                for table, column in COLUMNS:
                    moved = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                    changed += connection.execute(moved, (here, len(there) + 1, len(there), there)).rowcount
    except sqlite3.Error as error:
        raise OSError(f"cannot read MLflow's database {database}: {error}") from error
    return changed
