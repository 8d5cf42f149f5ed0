"""What a schedule asks: every night the same question, and one entry of the ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.promotion import unattended
from flows.promotion.promote import Outcome, Place, Question
from raft_core.promotion.ledger import Entry, FileLedger

Ask = Callable[[str], Outcome]


@pytest.fixture
def ask(workspace: Path, tmp_path: Path) -> Ask:
    place = Place(workspace, f"sqlite:///{workspace}/mlflow.db", str(tmp_path / "ledger.jsonl"))
    return lambda policy: unattended.ask_once(Question("one@1", "schedule", "", Path(policy)), place)


def test_an_open_request_is_not_asked_again_nor_is_one_that_a_person_rejected(
    ask: Ask, raft: Callable[..., Any], rules: Callable[..., str], entries: Callable[[], list[Entry]]
) -> None:
    policy = rules(approvals=1)
    assert ask(policy).status == "requested"
    again = ask(policy)
    assert (again.status, "(raft approve 1)" in again.message) == ("unchanged", True)
    assert raft("reject", "1", "--by", "bob", "--reason", "dull")[0] == 0
    again = ask(policy)
    assert (again.status, "was rejected by entry 2" in again.message) == ("unchanged", True)
    assert [entry.kind for entry in entries()] == ["requested", "rejected"]
    assert raft("promote", "one@1", "--rules", policy)[0] == 0, "a person may"
    assert [entry.kind for entry in entries()] == ["requested", "rejected", "requested"]


def test_a_refusal_stands_until_the_rules_change(
    ask: Ask, rules: Callable[..., str], entries: Callable[[], list[Entry]], monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = rules({"min_reward_gain": 5.0})
    assert ask(strict).status == "refused"
    with monkeypatch.context() as patched:
        patched.setattr(unattended, "promote_model", lambda *_: pytest.fail("measured again"))
        again = ask(strict)
    assert (again.status, "was refused by entry 1" in again.message) == ("unchanged", True)
    assert ask(rules()).status == "promoted"
    assert [entry.kind for entry in entries()] == ["refused", "promoted"]


def test_a_rollback_is_not_undone(
    ask: Ask, raft: Callable[..., Any], rules: Callable[..., str], entries: Callable[[], list[Entry]]
) -> None:
    assert raft("promote", "one@0", "--rules", rules())[0] == 0
    assert ask(rules()).status == "promoted"
    assert raft("rollback", "--reason", "it talks nonsense")[0] == 0
    again = ask(rules())
    assert (again.status, "champion by entry 2" in again.message) == ("unchanged", True)
    assert len(entries()) == 3


def test_a_withdrawn_candidate_is_no_failure_of_every_night(
    ask: Ask, raft: Callable[..., Any], rules: Callable[..., str], entries: Callable[[], list[Entry]], tmp_path: Path
) -> None:
    assert raft("promote", "one@1", "--rules", rules({"min_reward_gain": 5.0}))[0] == 3
    body = {key: entries()[0].body[key] for key in ("commit", "policy", "run", "iteration")}
    told = {**body, "reason": "a source must go"}
    FileLedger(tmp_path / "ledger.jsonl").append("withdrawn", "raft-tiny", told, time="2026-01-01T00:00:00+00:00")
    again = ask(rules())
    assert (again.status, "was withdrawn by entry 2" in again.message) == ("unchanged", True)
    assert len(entries()) == 2
