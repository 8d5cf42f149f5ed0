"""Open the ledger: a file for one machine, a table in Postgres for several."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError

from raft_core.errors import ConfigError, LedgerMovedError, StepError
from raft_core.errors import IntegrityError as FaultyRecord
from raft_core.files.plain_json import parse_object
from raft_core.promotion.ledger import GENESIS, Entry, FileLedger, Kind, Ledger, check_chain, entry_of, following

TABLE = sa.Table(
    "raft_ledger",
    sa.MetaData(),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("previous", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False, unique=True),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
"""``body`` is JSON as text, because a JSON column would reformat numbers and so change the digest."""
LOCK = 0x5241_4654
"""Key of the advisory lock that serializes appends."""

sa.event.listen(
    TABLE,
    "after_create",
    sa.DDL(  # type: ignore[no-untyped-call]
        "CREATE FUNCTION raft_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'raft_ledger is append-only'; END $$;"
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON raft_ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION raft_ledger_refuse()"
    ),
)


def open_ledger(uri: str) -> Ledger:
    """The ledger at ``uri``: ``postgresql://…``, or a file (``file:…`` or a path). Raises ConfigError.

    Nothing is created before the first append.
    """
    if uri.startswith(("postgresql:", "postgresql+psycopg:", "postgres:")):
        return PostgresLedger(uri)
    scheme, colon, _ = uri.partition("://")
    if colon and scheme != "file":
        raise ConfigError(
            f"a ledger cannot be kept at a {scheme}:// address",
            got=f"{scheme}://…",
            expected="a file, or postgresql://USER@HOST/DATABASE",
            hint="correct RAFT_LEDGER",
        )
    return FileLedger(Path(uri.removeprefix("file://").removeprefix("file:")).expanduser().absolute())


class PostgresLedger:
    """A ledger for several machines: one table. Appends are serialized, and the table rejects a fork of the chain."""

    def __init__(self, uri: str) -> None:
        try:
            self.url: URL = make_url(uri).set(drivername="postgresql+psycopg")
            self.engine = sa.create_engine(self.url, poolclass=sa.NullPool, isolation_level="SERIALIZABLE")
        except ArgumentError as error:
            raise ConfigError(
                "RAFT_LEDGER is not the address of a database",
                got=error,
                expected="postgresql://USER@HOST/DATABASE",
                hint="correct RAFT_LEDGER",
            ) from None
        except ModuleNotFoundError as error:
            raise ConfigError(
                "the driver for a ledger in Postgres is not installed",
                got=error,
                hint="pip install 'raft-mlops[postgres]'",
            ) from None

    @property
    def shown(self) -> str:
        """Its address, without a password."""
        return self.url.render_as_string(hide_password=True)

    def entries(self) -> list[Entry]:
        """See ``Ledger.entries``."""
        with self._connected() as connection:
            if not sa.inspect(connection).has_table(TABLE.name):
                return []
            rows = connection.execute(sa.select(TABLE).order_by(TABLE.c.number)).mappings().all()
        try:
            entries = [entry_of({**row, "body": parse_object(row["body"])}) for row in rows]
        except (ValueError, TypeError) as error:
            raise FaultyRecord(
                f"the table {TABLE.name} at {self.shown} holds a row that is not a ledger entry",
                got=error,
                hint="restore the table from a backup",
            ) from error
        check_chain(entries, self.shown)
        return entries

    def append(self, kind: Kind, model: str, body: Mapping[str, Any], *, time: str, after: str | None = None) -> Entry:
        """See ``Ledger.append``."""
        with self._connected() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_lock(LOCK)))
            connection.commit()
            TABLE.create(connection, checkfirst=True)
            newest = sa.select(TABLE.c.number, TABLE.c.digest).order_by(TABLE.c.number.desc()).limit(1)
            last = connection.execute(newest).one_or_none()
            place = (last.number, last.digest) if last else (0, GENESIS)
            entry = following(place, kind, model, body, time=time, after=after)
            connection.execute(sa.insert(TABLE).values({**asdict(entry), "body": json.dumps(entry.body)}))
            connection.commit()
            return entry

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """One connection; closing it releases its locks and rolls back what was not committed."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except IntegrityError as error:
            raise LedgerMovedError(
                f"another entry was added to the ledger at {self.shown} at the same moment",
                got=str(error).splitlines()[0],
                hint="run this command again",
            ) from error
        except SQLAlchemyError as error:
            raise StepError(
                f"the ledger at {self.shown} cannot be reached",
                got=str(error).splitlines()[0],
                hint="start the database, or correct RAFT_LEDGER; nothing was written",
            ) from error
