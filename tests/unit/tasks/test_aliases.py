"""MLflow's aliases follow the ledger, which must hold what the registry has seen of it."""

import json
from pathlib import Path

import pytest

from raft_core.errors import IntegrityError
from raft_core.promotion.ledger import Entry, FileLedger, Kind
from tasks.tracking.aliases import LEDGER_TAG, apply, hold_ledger, read_witnesses
from tasks.tracking.connection import connected

pytestmark = pytest.mark.slow


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
    with pytest.raises(IntegrityError, match="ledger") as cut:
        apply(ledger, tmp_path / "runs", uri)
    assert str(cut.value.got).startswith("1 entries")
    assert LEDGER_TAG in (cut.value.hint or "")
    assert champion(uri) == "c"
    ledger.path.write_bytes(whole)
    assert apply(ledger, tmp_path / "runs", uri) == []


def test_tags_say_who_made_it_champion_last_and_on_which_figures(tmp_path: Path, uri: str) -> None:
    ledger = FileLedger(tmp_path / "ledger.jsonl")
    finding = {"gate": "reward", "value": 0.123456, "low": None, "high": 1.0}
    many = [{**finding, "gate": f"slice:{n}"} for n in range(500)]

    def act(kind: Kind, letter: str, **more: object) -> Entry:
        body = {"commit": letter * 64, "policy": letter * 32, "run": "one", "iteration": 1, **more}
        return ledger.append(kind, "m", body, time=f"2026-01-0{len(ledger.entries()) + 1}T12:00:00+00:00")

    def tags(letter: str) -> dict[str, str]:
        assert apply(ledger, tmp_path / "runs", uri) == []
        with connected(uri) as client:
            (version,) = client.search_model_versions(f"name = 'm' and tags.`raft.commit` = '{letter * 64}'")
        return dict(version.tags)

    decided = {"rules": "r" * 64, "decision": {"findings": [finding, *many]}}
    first = act("promoted", "a", requested_by="ann", approved_by="bob", **decided)
    found = tags("a")
    assert (found["raft.requested_by"], found["raft.approved_by"], found["raft.rules"]) == ("ann", "bob", "r" * 64)
    assert json.loads(found["raft.figures"])["reward"] == [0.1235, None, 1.0]
    assert 4900 < len(found["raft.figures"]) <= 5000
    act("promoted", "b", requested_by="ann", approved_by=None, **decided)
    back = act("rolled_back", "a", requested_by="eve")
    assert "raft.approved_by" not in tags("b")
    again = tags("a")
    assert (again["raft.requested_by"], again.get("raft.approved_by")) == ("eve", None)
    assert (found["raft.promotion"], again["raft.promotion"]) == (first.digest, back.digest)
    assert (again["raft.figures"], again["raft.rules"]) == (found["raft.figures"], found["raft.rules"])


def test_the_witness_is_the_last_entry(ledger: FileLedger, uri: str, tmp_path: Path) -> None:
    assert read_witnesses(f"sqlite:///{tmp_path}/none.db") == {}
    assert read_witnesses(uri) == {}
    apply(ledger, tmp_path / "runs", uri)
    entries = ledger.entries()
    assert read_witnesses(uri) == {"m": f"3 {entries[-1].digest}"}
    hold_ledger(read_witnesses(uri), entries)
    for fewer in ([], entries[:2]):
        with pytest.raises(IntegrityError, match=LEDGER_TAG):
            hold_ledger(read_witnesses(uri), fewer, {"m"})
    hold_ledger({"of another ledger": "7 abc"}, entries, {"m"})
