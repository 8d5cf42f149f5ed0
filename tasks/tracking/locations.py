"""MLflow's sqlite file keeps absolute paths of its artifacts; a workspace may be moved or copied.

Artifacts lie in ``mlartifacts`` beside that file. Where there is such a folder and the file names
another one, the workspace came from there: the paths are put right before MLflow reads them.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

ARTIFACTS = "mlartifacts"
COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
WAIT_S = 30


def artifact_location(database: Path) -> str:
    """Where artifacts go of experiments that are made in the sqlite file ``database``."""
    return (database.resolve().parent / ARTIFACTS).as_uri()


def settle(database: Path) -> int:
    """Put the artifact paths of another place right, in one transaction; returns how many there were.

    Raises OSError where the file cannot be read or written.
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
        raise OSError(f"{database} cannot be read: {error}") from error
    return changed
