"""Approvals by the command: who may, when it is too late, and what a kill in between leaves."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flows.promotion.approval import Approval, approve, decide_by_pause, reject
from flows.promotion.promote import Place
from raft_core.errors import RaftError
from raft_core.promotion.ledger import Entry, FileLedger
from raft_core.promotion.rules import load_rules

Raft = Callable[..., tuple[int, str, str]]
Entries = Callable[[], list[Entry]]
Rules = Callable[..., str]


def kinds(entries: Entries) -> list[str]:
    return [entry.kind for entry in entries()]


def test_someone_else_approves(raft: Raft, raft_json: Callable[..., Any], rules: Rules, entries: Entries) -> None:
    policy = rules(approvals=1)
    code, out, _ = raft("promote", "one@0", "--rules", policy)
    assert (code, "raft approve 1" in out) == (0, True)
    code, _, err = raft("approve", "1", "--by", " Ann ")
    assert (code, "requester_may_approve" in err) == (3, True)
    assert kinds(entries) == ["requested"]
    done = raft_json("approve", "1", "--by", "bob", "--reason", "fine", "--rules", policy)
    assert (done["status"], done["entry"]["body"]["approved_by"]) == ("promoted", "bob")
    assert kinds(entries) == ["requested", "approved", "promoted"]
    assert {entry.body.get("request") for entry in entries()[1:]} == {entries()[0].digest}
    assert raft("approve", "1", "--by", "eve")[0] == 3
    assert raft("reject", "1", "--by", "eve")[0] == 3
    assert raft("approve", "2", "--by", "eve")[0] == 2


def test_who_asked_may_approve_where_the_policy_says_so(raft: Raft, rules: Rules, entries: Entries) -> None:
    policy = rules(approvals=1, requester_may_approve=True)
    raft("promote", "one@0", "--rules", policy)
    assert raft("approve", entries()[0].digest[:8], "--rules", policy)[0] == 0


def test_a_rejection_is_final(raft: Raft, rules: Rules, entries: Entries) -> None:
    raft("promote", "one@0", "--rules", rules(approvals=1))
    code, out, _ = raft("reject", "1", "--by", "bob", "--reason", "not yet")
    assert (code, "rejected by bob" in out) == (0, True)
    code, _, err = raft("approve", "1", "--by", "eve")
    assert (code, "was rejected by entry 2" in err) == (3, True)
    assert kinds(entries) == ["requested", "rejected"]


def test_it_is_too_late_once_the_champion_changed(raft: Raft, rules: Rules, entries: Entries) -> None:
    raft("promote", "one@0", "--rules", rules(approvals=1))
    raft("promote", "one@1", "--rules", rules())
    code, _, err = raft("approve", "1", "--by", "bob")
    assert (code, "one@1" in err, "raft promote" in err) == (3, True, True)
    assert kinds(entries) == ["requested", "promoted"]


def test_old_evidence_approves_nothing(
    raft: Raft, rules: Rules, entries: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import UTC, datetime, timedelta

    raft("promote", "one@0", "--rules", rules(approvals=1, max_evidence_age_h=2))
    monkeypatch.setattr("flows.promotion.approval.now", lambda: datetime.now(UTC) + timedelta(hours=200))
    code, _, err = raft("approve", "1", "--by", "bob")
    assert (code, "max_evidence_age_h allows 2 h" in err) == (3, True)
    assert kinds(entries) == ["requested"]


def test_an_approval_that_a_kill_cut_short_is_finished(
    raft: Raft, rules: Rules, entries: Entries, tmp_path: Path
) -> None:
    raft("promote", "one@0", "--rules", rules(approvals=1))
    (asked,) = entries()
    named = {key: asked.body[key] for key in ("commit", "policy", "run", "iteration")}
    body = {**named, "request": asked.digest, "approved_by": "bob", "reason": ""}
    FileLedger(tmp_path / "ledger.jsonl").append("approved", asked.model, body, time=asked.time)
    assert raft("approve", "1", "--by", "eve", "--rules", rules(approvals=1))[0] == 0
    assert kinds(entries) == ["requested", "approved", "promoted"]
    assert entries()[-1].body["approved_by"] == "bob"


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\u00ad\ufeff", "ann\u200b", "an\x07n"])
def test_a_name_that_cannot_be_seen_is_nobody_and_no_other_person(
    name: str, raft: Raft, rules: Rules, entries: Entries, workspace: Path, tmp_path: Path
) -> None:
    raft("promote", "one@0", "--rules", rules(approvals=1))
    place = Place(workspace, f"sqlite:///{workspace}/mlflow.db", str(tmp_path / "ledger.jsonl"))
    with pytest.raises(RaftError, match=r"--by|requester_may_approve"):
        approve("1", name, "", place, load_rules(Path(rules(approvals=1))))
    assert kinds(entries) == ["requested"]


def test_what_a_form_sends_stands_in_the_ledger_in_one_harmless_line(
    raft: Raft, rules: Rules, entries: Entries, workspace: Path, tmp_path: Path
) -> None:
    raft("promote", "one@0", "--rules", rules(approvals=1))
    place = Place(workspace, f"sqlite:///{workspace}/mlflow.db", str(tmp_path / "ledger.jsonl"))
    reject("1", "bob\ud800\n", "no\x1b[2J\ud800", place)
    assert (entries()[-1].body["rejected_by"], entries()[-1].body["reason"]) == ("bob", "no\\x1b[2J\\xd800")


def test_the_policy_that_tells_others_is_the_one_of_the_request(raft: Raft, rules: Rules, entries: Entries) -> None:
    raft("promote", "one@0", "--rules", rules(approvals=1))
    code, _, err = raft("approve", "1", "--by", "bob", "--rules", rules(approvals=1, after=["true"]))
    assert (code, "digest" in err, "--rules" in err) == (2, True, True)
    assert kinds(entries) == ["requested"]


def test_a_form_that_comes_after_a_command_changes_nothing(
    raft: Raft, rules: Rules, entries: Entries, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = rules(approvals=1)
    raft("promote", "one@0", "--rules", policy)
    place = Place(workspace, f"sqlite:///{workspace}/mlflow.db", str(tmp_path / "ledger.jsonl"))

    def late(**_: object) -> Approval:
        raft("reject", "1", "--by", "eve", "--reason", "not yet")
        return Approval(approve=True, by="bob")

    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(UUID(int=0)))
    monkeypatch.setattr("flows.promotion.approval.pause_flow_run", late)
    monkeypatch.setattr("flows.promotion.approval.resume_flow_run", lambda *_: None)
    outcome = decide_by_pause(entries()[0], place, Path(policy), 60)
    assert (outcome.status, "rejected by eve" in outcome.message) == ("rejected", True)
    assert kinds(entries) == ["requested", "rejected"]
