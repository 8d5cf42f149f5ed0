"""Requests for promotion: found by number or digest, open until decided, and approved by whom the policy allows."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from raft_core.errors import GateStop, InputError, IntegrityError
from raft_core.promotion.ledger import Entry, FileLedger, Kind
from raft_core.promotion.requests import answer, approval_of, check_approval, decided, find_request, open_requests

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> FileLedger:
    return FileLedger(tmp_path / "ledger.jsonl")


def about(letter: str) -> dict[str, object]:
    return {"commit": letter * 64, "policy": letter * 32, "run": f"run-{letter}", "iteration": 3}


def ask(
    ledger: FileLedger,
    letter: str = "a",
    champion: str | None = None,
    by_requester: bool = False,
    kind: Kind = "requested",
) -> Entry:
    body = {
        **about(letter),
        "requested_by": "Ada",
        "requester_may_approve": by_requester,
        "champion": champion * 64 if champion else None,
        "max_evidence_age_h": 24,
        "evidence": {"time": NOON.isoformat()},
        "rules": "r",
    }
    return ledger.append(kind, "m", body, time=NOON.isoformat())


def act(ledger: FileLedger, kind: Kind, letter: str, request: Entry | None = None) -> Entry:
    link = {"request": request.digest} if request else {}
    return ledger.append(kind, "m", {**about(letter), **link}, time=NOON.isoformat())


def test_a_request_is_found_by_its_number_or_its_first_digits(ledger: FileLedger) -> None:
    first, second = ask(ledger), ask(ledger, "b")
    assert find_request(ledger.entries(), "1") == first
    assert find_request(ledger.entries(), second.digest[:6]) == second


@pytest.mark.parametrize("text", ["3", "9", "", "00000"])
def test_what_is_no_request_is_refused_and_the_open_ones_are_named(ledger: FileLedger, text: str) -> None:
    ask(ledger), ask(ledger, "b"), act(ledger, "refused", "c")
    with pytest.raises(InputError, match=f"'{text}'") as error:
        find_request(ledger.entries(), text)
    assert str(error.value.expected).endswith("1, 2")


def test_digits_too_few_to_name_one_name_none(ledger: FileLedger) -> None:
    request = ask(ledger)
    with pytest.raises(InputError, match="no request"):
        find_request(ledger.entries(), request.digest[:5] if not request.digest[:5].isdigit() else "x" * 5)


@pytest.mark.parametrize("kind", ["promoted", "rejected"])
def test_a_request_is_open_until_it_is_decided(ledger: FileLedger, kind: Kind) -> None:
    request, other = ask(ledger), ask(ledger, "b")
    approval = act(ledger, "approved", "a", request)
    assert open_requests(ledger.entries()) == [request, other]
    assert approval_of(ledger.entries(), request) == approval
    end = act(ledger, kind, "a", request)
    assert decided(ledger.entries(), request) == end
    assert open_requests(ledger.entries()) == [other]
    assert approval_of(ledger.entries(), other) is None
    with pytest.raises(GateStop, match=f"request 1 .*{kind} by entry 4"):
        check_approval(ledger.entries(), request, "Grace", NOON)


def test_someone_else_may_approve(ledger: FileLedger) -> None:
    request = ask(ledger)
    check_approval(ledger.entries(), request, "Grace", NOON)
    for name in ("Ada", " ada", "ADA "):
        with pytest.raises(GateStop, match="requester_may_approve"):
            check_approval(ledger.entries(), request, name, NOON)


def test_the_requester_may_approve_where_the_policy_says_so(ledger: FileLedger) -> None:
    check_approval(ledger.entries(), ask(ledger, by_requester=True), "Ada", NOON)


def test_a_withdrawn_model_cannot_be_approved(ledger: FileLedger) -> None:
    request = ask(ledger)
    act(ledger, "withdrawn", "a")
    with pytest.raises(GateStop, match="was withdrawn by entry 2"):
        check_approval(ledger.entries(), request, "Grace", NOON)


def test_an_approval_is_against_the_champion_that_the_evidence_saw(ledger: FileLedger) -> None:
    act(ledger, "promoted", "c")
    request = ask(ledger, champion="c")
    check_approval(ledger.entries(), request, "Grace", NOON)
    act(ledger, "promoted", "d")
    with pytest.raises(GateStop, match="run-d@3"):
        check_approval(ledger.entries(), request, "Grace", NOON)


def test_evidence_grows_too_old(ledger: FileLedger) -> None:
    request = ask(ledger)
    check_approval(ledger.entries(), request, "Grace", NOON + timedelta(hours=24))
    with pytest.raises(GateStop, match=r"24\.5 h old.*max_evidence_age_h.* 24 h"):
        check_approval(ledger.entries(), request, "Grace", NOON + timedelta(hours=24.5))


def answered(ledger: FileLedger, letter: str = "a", rules: str = "r", hours: float = 1) -> Entry | None:
    return answer(ledger.entries(), "m", letter * 64, rules, NOON + timedelta(hours=hours))


@pytest.mark.parametrize("kind", ["requested", "refused"])
def test_a_schedule_asks_again_once_rules_or_champion_have_changed(ledger: FileLedger, kind: Kind) -> None:
    assert answered(ledger) is None
    first = ask(ledger, kind=kind)
    assert answered(ledger) == first
    assert answered(ledger, "b") is None
    assert answered(ledger, rules="others") is None
    act(ledger, "promoted", "c")
    assert answered(ledger) is None
    assert answered(ledger, "c") is None, "the champion is told otherwise"
    again = ask(ledger, champion="c", kind=kind)
    assert answered(ledger) == again


def test_a_schedule_asks_again_once_the_evidence_of_its_request_is_too_old(ledger: FileLedger) -> None:
    request = ask(ledger)
    assert answered(ledger, hours=24) == request
    assert answered(ledger, hours=24.5) is None
    rejection = act(ledger, "rejected", "a", request)
    assert answered(ledger, hours=24.5) == rejection, "a person's no does not grow old"


def test_a_schedule_does_not_undo_a_rollback(ledger: FileLedger) -> None:
    act(ledger, "promoted", "a")
    promoted = act(ledger, "promoted", "b")
    assert answered(ledger, "b") is None
    act(ledger, "rolled_back", "a")
    assert answered(ledger, "b") == promoted
    request = ask(ledger, "b", champion="a")
    assert answered(ledger, "b") == request, "a person asked all the same"


@pytest.mark.parametrize("disguise", ["Аda", "ａｄａ", "A\u200bda", "\u202eAda", "A d a", "Αdа", "Ádа"])
def test_a_disguise_makes_no_second_person(ledger: FileLedger, disguise: str) -> None:
    request = ask(ledger)
    with pytest.raises(GateStop, match="requester_may_approve"):
        check_approval(ledger.entries(), request, disguise, NOON)


def test_evidence_that_is_still_to_come_approves_nothing(ledger: FileLedger) -> None:
    request = ask(ledger)
    check_approval(ledger.entries(), request, "Bob", NOON - timedelta(minutes=4))
    with pytest.raises(GateStop, match=r"dated 2026-01-01T12:00:00\+00:00"):
        check_approval(ledger.entries(), request, "Bob", NOON - timedelta(days=27_000))


@pytest.mark.parametrize(
    "change", [{"evidence": {}}, {"evidence": {"time": "yesterday"}}, {"evidence": {"time": "2026-01-01T12:00:00"}}]
)
def test_evidence_without_a_time_that_can_be_read_is_too_old(ledger: FileLedger, change: dict[str, object]) -> None:
    request = ask(ledger)
    forged = replace(request, body={**request.body, **change})
    with pytest.raises(GateStop, match="max_evidence_age_h"):
        check_approval([forged], forged, "Bob", NOON)


@pytest.mark.parametrize(
    "name", ["requested_by", "requester_may_approve", "champion", "rules", "evidence", "max_evidence_age_h"]
)
def test_a_request_that_lacks_what_it_is_decided_by_is_one_clear_error(ledger: FileLedger, name: str) -> None:
    request = ask(ledger)
    for body in ({k: v for k, v in request.body.items() if k != name}, {**request.body, name: [1]}):
        with pytest.raises(IntegrityError, match=f"request 1 .* {name}$|request 1 .* {name}\n"):
            check_approval([request], replace(request, body=body), "Bob", NOON)
    assert answer([replace(request, body={})], "m", "a", "r", NOON) is None
