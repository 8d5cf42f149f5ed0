"""Whose weights must stay: not those of a request that nobody can approve any more."""

from pathlib import Path

from raft_core.promotion.ledger import Entry, FileLedger, Kind
from tasks.versioning.gc import needed_commits


def test_weights_wait_for_an_approval_that_can_still_come(tmp_path: Path) -> None:
    ledger = FileLedger(tmp_path / "ledger.jsonl")

    def act(kind: Kind, letter: str, **more: str | None) -> Entry:
        body = {"commit": letter, "policy": letter, "run": "one", "iteration": 0, **more}
        return ledger.append(kind, "m", body, time="2026-01-01T12:00:00+00:00")

    def needed() -> dict[str, str]:
        return needed_commits(f"sqlite:///{tmp_path}/none.db", str(ledger.path))

    act("requested", "a", champion=None)
    rejected = act("requested", "b", champion=None)
    assert needed().keys() == {"a", "b"}
    act("rejected", "b", request=rejected.digest)
    assert needed() == {"a": "waits for approval as m"}
    act("promoted", "c")
    act("requested", "d", champion="c")
    assert needed() == {"c": "champion of m", "d": "waits for approval as m"}
