"""MLflow's aliases follow the ledger, which must hold what the registry has seen of it."""

from pathlib import Path

import pytest

from raft_core.errors import IntegrityError
from raft_core.records.ledger import FileLedger
from tasks.aliases import LEDGER_TAG, apply, check_witnesses, read_witnesses
from tasks.tracking import connected


@pytest.fixture
def ledger(tmp_path: Path) -> FileLedger:
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    for letter in "abc":
        body = {"commit": letter * 64, "policy": letter * 32, "run": "one", "iteration": ord(letter) - ord("a")}
        ledger.append("promoted", "m", body, time="2026-01-01T12:00:00+00:00")
    return ledger


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A registry with a version a commit."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with connected(uri) as client:
        client.create_registered_model("m")
        for letter in "abc":
            client.create_model_version("m", "nowhere", tags={"raft.commit": letter * 64})
    return uri


def champion(uri: str) -> str:
    with connected(uri) as client:
        return str(client.get_model_version_by_alias("m", "champion").tags["raft.commit"])[0]


def test_a_ledger_that_was_cut_off_sets_no_alias_back(ledger: FileLedger, uri: str, tmp_path: Path) -> None:
    assert apply(ledger, tmp_path / "runs", uri) == []
    assert champion(uri) == "c"
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole.splitlines(keepends=True)[0])
    with pytest.raises(IntegrityError, match="entries are missing at the end of the ledger: MLflow's m has seen one"):
        apply(ledger, tmp_path / "runs", uri)
    assert champion(uri) == "c"
    ledger.path.write_bytes(whole)
    assert apply(ledger, tmp_path / "runs", uri) == []


def test_the_witness_is_the_last_entry(ledger: FileLedger, uri: str, tmp_path: Path) -> None:
    assert read_witnesses(f"sqlite:///{tmp_path}/none.db") == {}
    assert read_witnesses(uri) == {}
    apply(ledger, tmp_path / "runs", uri)
    entries = ledger.entries()
    assert read_witnesses(uri) == {"m": f"3 {entries[-1].digest}"}
    check_witnesses(read_witnesses(uri), entries)
    for fewer in ([], entries[:2]):
        with pytest.raises(IntegrityError, match=LEDGER_TAG):
            check_witnesses(read_witnesses(uri), fewer)
