"""One index over the tables of all runs, so that a prompt or sample is found quickly among millions.

It is a DuckDB file, ``runs/.index/lineage.duckdb``, that only repeats the tables and may be deleted at any time. The
rows of a commit are added once its tables are hashed and match its ``commit.json``, and removed when the commit is. An
index of another format, or one that cannot be read, is built again. If ``runs/`` is not writable, a temporary index in
memory is used.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from raft_core.audit.lineage import commit_fault, policy_facts
from raft_core.errors import IntegrityError
from raft_core.files.artifacts import file_digest, json_digest
from raft_core.files.hashing import FileHashes
from raft_core.files.locks import exclusive, lock_open_file, share_open_file
from raft_core.files.plain_json import read_json
from raft_core.forgetting.erasure import TOMBSTONE, digests_since
from raft_core.records.policy_ref import policy_name
from raft_core.records.run import BASE

FORMAT = "1"
FOLDER = ".index"
TABLES = ("prompts", "scored", "selected", "quarantine")
"""Tables that are indexed. ``samples`` is not: ``scored`` has every sample, and ``selected`` has the texts."""
BATCH_BYTES = 1 << 29
"""Bytes of Parquet that one statement reads."""
MOST_FILES = 512
MEMORY = "1GB"

SCHEMA = """
CREATE TABLE about (format VARCHAR);
CREATE TABLE commits (
  number INTEGER, run VARCHAR, iteration INTEGER, digest VARCHAR, content VARCHAR, made VARCHAR, sampled_from VARCHAR,
  seen BOOLEAN);
CREATE TABLE prompts (number INTEGER, prompt_id VARCHAR, text VARCHAR);
CREATE TABLE drawn (commit INTEGER, prompt INTEGER, source VARCHAR);
CREATE TABLE samples (
  commit INTEGER, prompt INTEGER, sample_id VARCHAR, k INTEGER, source VARCHAR, reward DOUBLE, status VARCHAR,
  rank INTEGER);
CREATE TABLE selected (commit INTEGER, prompt INTEGER, sample_id VARCHAR, completion VARCHAR);
"""
"""``made`` and ``sampled_from``: identities of policies; for a base ``sampled_from`` is its ancestor, if any. ``seen``:
whether the commit's tables were indexed. ``rank`` is null for a sample that was not selected."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Index:
    """An index that matches ``runs/``. ``unseen``: RUN@N of commits whose tables are absent or damaged."""

    connection: duckdb.DuckDBPyConnection
    unseen: tuple[str, ...]

    def rows(self, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.connection.execute(query, list(parameters)).fetchall()


@dataclass(frozen=True, slots=True)
class _Found:
    """A commit in ``runs/``. ``content``: digest of everything that the index reads of it."""

    run: str
    iteration: int
    digest: str
    content: str
    folder: Path


@contextmanager
def open_index(runs: Path, say: Say = lambda line: None) -> Iterator[Index]:
    """Open the index of ``runs`` after updating it. Readers share it; one process at a time updates it."""
    found = {(c.run, c.iteration): c for c in _committed(runs)}
    folder = runs / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError:
        with _connected(":memory:") as connection:
            connection.execute(SCHEMA)
            _extend(connection, found, say)
            yield Index(connection, _unseen(connection))
        return
    path = folder / "lineage.duckdb"
    with lock:
        while True:
            lock_open_file(lock)
            _update(path, found, say)
            share_open_file(lock)
            # changing the lock releases it for a moment, so another process may have removed the file
            if path.exists():
                break
        with _connected(str(path), read_only=True) as connection:
            yield Index(connection, _unseen(connection))


def drop_index(runs: Path) -> None:
    """Remove the index with everything in it; the next query builds it again."""
    folder = runs / FOLDER
    if not folder.is_dir():
        return
    with exclusive(folder / "lock"):
        _remove(folder / "lineage.duckdb")


def _remove(path: Path) -> None:
    for name in (path, path.with_name(path.name + ".wal")):
        name.unlink(missing_ok=True)


@contextmanager
def _connected(path: str, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect(path, read_only=read_only)
    try:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET preserve_insertion_order = false")
        yield connection
    finally:
        connection.close()


def _update(path: Path, found: Mapping[tuple[str, int], _Found], say: Say) -> None:
    if path.exists():
        try:
            with _connected(str(path), read_only=True) as connection:
                sound = connection.execute("SELECT format FROM about").fetchall() == [(FORMAT,)]
                if sound and not _outdated(connection, found) and not _missing(connection, found):
                    return
        except duckdb.Error:
            sound = False
        if not sound:
            _remove(path)
    if not path.exists():
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        _remove(aside)
        with _connected(str(aside)) as connection:
            connection.execute(SCHEMA)
            connection.execute("INSERT INTO about VALUES (?)", [FORMAT])
        aside.rename(path)
    with _connected(str(path)) as connection:
        _remove_commits(connection, _outdated(connection, found))
        _extend(connection, found, say)


# -- commits in runs/ and in the index -------------------------------------------------------------


def _committed(runs: Path) -> Iterator[_Found]:
    """Every commit under ``runs`` with its digest. Nothing is parsed, so thousands are fast."""
    for run in sorted(runs.iterdir()) if runs.is_dir() else ():
        if run.name.startswith(".") or not (run / "config.yaml").is_file():
            continue
        iterations = run / "iterations"
        numbered = (f for f in iterations.iterdir() if f.name.isdecimal()) if iterations.is_dir() else ()
        for folder in (run / "base", *sorted(numbered)):
            with suppress(FileNotFoundError):
                if not (folder / "commit.json").is_file():  # reading a pipe would block for ever
                    continue
                digest = file_digest(folder / "commit.json")
                tombstone = folder / TOMBSTONE
                content = json_digest([digest, file_digest(tombstone)]) if tombstone.is_file() else digest
                number = BASE if folder.name == "base" else int(folder.name)
                yield _Found(run.name, number, digest, content, folder)


def _rows(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT run, iteration, content, number, seen FROM commits").fetchall()


def _outdated(connection: duckdb.DuckDBPyConnection, found: Mapping[tuple[str, int], _Found]) -> list[int]:
    """Numbers of commits in the index that are no longer in ``runs``, or have changed."""
    wanted = {key: commit.content for key, commit in found.items()}
    return [
        number for run, iteration, content, number, _ in _rows(connection) if wanted.get((run, iteration)) != content
    ]


def _missing(connection: duckdb.DuckDBPyConnection, found: Mapping[tuple[str, int], _Found]) -> list[_Found]:
    """Commits that are not indexed, and those whose tables were absent before and are here now."""
    known = {(run, iteration): (content, seen) for run, iteration, content, _, seen in _rows(connection)}
    new = []
    for key, commit in found.items():
        content, seen = known.get(key, (None, False))
        if content != commit.content or (not seen and (commit.folder / "tables").is_dir()):
            new.append(commit)
    return new


def _unseen(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    rows = connection.execute("SELECT run, iteration FROM commits WHERE NOT seen ORDER BY ALL").fetchall()
    return tuple(policy_name(run, iteration) for run, iteration in rows)


# -- adding and removing commits ---------------------------------------------------------------------


def _remove_commits(connection: duckdb.DuckDBPyConnection, numbers: Sequence[int]) -> None:
    if not numbers:
        return
    connection.execute("BEGIN")
    for table, column in (("commits", "number"), ("drawn", "commit"), ("samples", "commit"), ("selected", "commit")):
        connection.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT unnest(?))", [list(numbers)])
    connection.execute("DELETE FROM prompts WHERE number NOT IN (SELECT prompt FROM drawn)")
    connection.execute("COMMIT")


def _extend(connection: duckdb.DuckDBPyConnection, found: Mapping[tuple[str, int], _Found], say: Say) -> None:
    new = _missing(connection, found)
    known = {(run, iteration): number for run, iteration, _, number, _ in _rows(connection)}
    _remove_commits(
        connection, [number for key, number in known.items() if any((c.run, c.iteration) == key for c in new)]
    )
    (first,) = connection.execute("SELECT coalesce(max(number), -1) + 1 FROM commits").fetchone() or (0,)
    done = 0
    for batch in _batches(new):
        if len(new) > 1:
            say(f"indexing the samples of iterations {done + 1} to {done + len(batch)} of {len(new)}")
        _add(connection, batch, first + done)
        done += len(batch)


def _batches(commits: Sequence[_Found]) -> Iterator[list[_Found]]:
    batch: list[_Found] = []
    size = 0
    for commit in commits:
        more = sum(path.stat().st_size for path in commit.folder.glob("tables/scored.parquet"))
        if batch and (size + more > BATCH_BYTES or len(batch) == MOST_FILES):
            yield batch
            batch, size = [], 0
        batch.append(commit)
        size += more
    if batch:
        yield batch


def _add(connection: duckdb.DuckDBPyConnection, batch: Sequence[_Found], first: int) -> None:
    """Add the commits of ``batch`` with all their rows, in one transaction."""
    hashes = FileHashes()
    hashes.prime(c.folder / "tables" / f"{name}.parquet" for c in batch for name in TABLES)
    facts = {first + i: _facts(commit, hashes) for i, commit in enumerate(batch)}
    rows = [
        {"number": number, "run": c.run, "iteration": c.iteration, "digest": c.digest, "content": c.content, **known}
        for (number, (known, _)), c in zip(facts.items(), batch, strict=True)
    ]
    files = [
        {"commit": number, "name": name, "path": str(path)}
        for number, (_, tables) in facts.items()
        for name, path in tables.items()
    ]
    connection.execute("BEGIN")
    _insert(connection, "commits", rows, ("made", "sampled_from"))
    connection.execute(_SCRATCH)
    _insert(connection, "files", files)
    for name, query in _QUERIES:
        if paths := [file["path"] for file in files if file["name"] == name]:
            connection.execute(query, {"paths": paths})
    connection.execute("COMMIT")


def _facts(commit: _Found, hashes: FileHashes) -> tuple[dict[str, Any], dict[str, Path]]:
    """Columns of a commit, and the paths of its tables: all of them if every one has the committed bytes, else none."""
    try:
        content = read_json(commit.folder / "commit.json")
        if fault := commit_fault(content):
            raise ValueError(fault)
        expected = digests_since(commit.folder, content["outputs"])
    except (ValueError, TypeError, KeyError, OSError, IntegrityError):
        return {"made": None, "sampled_from": None, "seen": False}, {}
    wanted = {name: expected.get(f"tables/{name}.parquet") for name in TABLES}
    tables = {name: commit.folder / "tables" / f"{name}.parquet" for name, digest in wanted.items() if digest}
    try:
        sound = all(hashes.sha256(path) == wanted[name] for name, path in tables.items())
    except (OSError, ValueError):
        sound = False
    facts = policy_facts(content)
    parent = facts.ancestors[0].policy if facts.ancestors else content["sampled_from"]
    return {"made": facts.identity, "sampled_from": parent, "seen": sound}, tables if sound else {}


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]], texts: Sequence[str] = ()
) -> None:
    """Insert ``rows`` (column → value) into ``table``. ``texts``: text columns that may hold only nulls."""
    if not rows:
        return
    fields = {name: pa.array([row[name] for row in rows], pa.string() if name in texts else None) for name in rows[0]}
    connection.register("new_rows", pa.table(fields))
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM new_rows")
    connection.unregister("new_rows")


_SCRATCH = """
CREATE OR REPLACE TEMP TABLE files (commit INTEGER, name VARCHAR, path VARCHAR);
CREATE OR REPLACE TEMP TABLE caught (commit INTEGER, sample_id VARCHAR);
CREATE OR REPLACE TEMP TABLE chosen (commit INTEGER, sample_id VARCHAR, rank INTEGER);
"""
_READ = "read_parquet($paths, filename = true) AS t JOIN files ON files.path = t.filename"
_QUERIES = (
    (
        "prompts",
        f"""INSERT INTO prompts
        SELECT (SELECT coalesce(max(number), -1) FROM prompts) + row_number() OVER (), prompt_id, text
        FROM (SELECT prompt_id, any_value(text) AS text FROM {_READ} GROUP BY prompt_id)
        WHERE prompt_id NOT IN (SELECT prompt_id FROM prompts)""",
    ),
    (
        "prompts",
        f"""INSERT INTO drawn SELECT files.commit, p.number, t.source
        FROM {_READ} JOIN prompts AS p ON p.prompt_id = t.prompt_id""",
    ),
    ("quarantine", f"INSERT INTO caught SELECT DISTINCT files.commit, sample_id FROM {_READ}"),
    ("selected", f"INSERT INTO chosen SELECT files.commit, sample_id, rank FROM {_READ}"),
    (
        "selected",
        f"""INSERT INTO selected SELECT files.commit, p.number, sample_id, completion
        FROM {_READ} JOIN prompts AS p ON p.prompt_id = t.prompt_id""",
    ),
    (
        "scored",
        f"""INSERT INTO samples
        SELECT files.commit, p.number, t.sample_id, t.k, t.source, t.reward,
               CASE WHEN q.sample_id IS NULL THEN t.status ELSE 'quarantined' END, c.rank
        FROM {_READ} JOIN prompts AS p ON p.prompt_id = t.prompt_id
        LEFT JOIN caught AS q ON q.commit = files.commit AND q.sample_id = t.sample_id
        LEFT JOIN chosen AS c ON c.commit = files.commit AND c.sample_id = t.sample_id""",
    ),
)
"""(table, statement that indexes it), in this order."""
