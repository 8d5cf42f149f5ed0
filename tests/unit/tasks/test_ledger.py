"""Which store an address means; the Postgres store itself is tested with a real server."""

from pathlib import Path

import pytest

from raft_core.errors import ConfigError, StepError
from raft_core.promotion.ledger import FileLedger
from tasks.promotion.ledger import open_ledger


@pytest.mark.parametrize("prefix", ["", "file:", "file://"])
def test_a_file(prefix: str, tmp_path: Path) -> None:
    ledger = open_ledger(f"{prefix}{tmp_path}/with space/l.jsonl")
    assert isinstance(ledger, FileLedger)
    assert ledger.path == tmp_path / "with space" / "l.jsonl"
    assert not ledger.path.parent.exists()


@pytest.mark.parametrize("uri", ["https://somewhere/ledger", "sqlite:///x.db"])
def test_no_such_store(uri: str) -> None:
    with pytest.raises(ConfigError, match=uri.partition(":")[0]):
        open_ledger(uri)


def test_a_database_that_is_away_is_told_without_its_password() -> None:
    pytest.importorskip("psycopg")
    ledger = open_ledger("postgresql://raft:hidden@127.0.0.1:9/raft?connect_timeout=2")
    with pytest.raises(StepError, match="ledger at postgresql") as caught:
        ledger.append("refused", "m", {}, time="t")
    assert "hidden" not in str(caught.value)
    assert "@127.0.0.1:9/raft" in str(caught.value)
