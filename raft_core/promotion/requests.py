"""Requests for promotion in the ledger: which are open, and may this person approve one now?"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from raft_core.errors import GateStop, InputError, IntegrityError
from raft_core.promotion.ledger import Entry, current, withdrawal
from raft_core.promotion.people import same_person

CLOCKS_DIFFER = timedelta(minutes=5)
"""Between two machines that work on one ledger; evidence from later than that is from no sound clock."""
MIN_DIGEST = 6
"""Digits of a digest that name an entry."""


def find_request(entries: Sequence[Entry], text: str) -> Entry:
    """The request that a person means by its number or the first digits of its digest. Raises InputError."""
    found = [e for e in entries if e.kind == "requested" and _means(e, text)]
    if len(found) != 1:
        waiting = ", ".join(str(entry.number) for entry in open_requests(entries)) or "none"
        raise InputError(
            f"{'no' if not found else 'more than one'} request {text!r} in the ledger",
            expected=f"the number of a request; open: {waiting}",
            hint="raft ledger lists them",
        )
    return found[0]


def _check_request(request: Entry) -> None:
    """Raise IntegrityError for one that lacks what an approval is decided by."""
    wanted: dict[str, Any] = {
        "requested_by": str,
        "requester_may_approve": bool,
        "champion": str | None,
        "rules": str,
        "evidence": dict,
        "max_evidence_age_h": int | float,
    }
    absent = [name for name in wanted if name not in request.body]
    if wrong := absent or [name for name, kind in wanted.items() if not isinstance(request.body[name], kind)]:
        raise IntegrityError(
            f"request {request.number} of the ledger has no {wrong[0]} that can be read",
            hint="reject it, and ask again: raft promote",
        )


def _means(entry: Entry, text: str) -> bool:
    return text == str(entry.number) or (len(text) >= MIN_DIGEST and entry.digest.startswith(text))


def open_requests(entries: Sequence[Entry]) -> list[Entry]:
    """Requests that nobody decided on, in order."""
    return [e for e in entries if e.kind == "requested" and decided(entries, e) is None]


def decided(entries: Sequence[Entry], request: Entry) -> Entry | None:
    """The entry that ended a request: promoted or rejected. (``approved`` alone: a promotion that a kill cut short.)"""
    ends = ("promoted", "rejected")
    return next((e for e in entries if e.kind in ends and e.body.get("request") == request.digest), None)


def answer(entries: Sequence[Entry], model: str, commit: str, rules: str, now: datetime) -> Entry | None:
    """The latest entry that spares a schedule to ask for ``commit`` as champion again; None: the question is new.

    By the same ``rules`` (digest) against the present champion it was refused, was rejected, or waits on evidence that
    may still be approved; or it was the champion once, and somebody put another in its place.
    """
    holder = current(entries, model).champion
    champion = holder.commit if holder else None
    if champion == commit:
        return None
    for entry in reversed(entries):
        body = entry.body
        if entry.model != model or body.get("commit") != commit:
            continue
        if entry.kind in ("promoted", "rolled_back"):
            return entry
        if entry.kind not in ("refused", "requested") or (body.get("champion"), body.get("rules")) != (champion, rules):
            continue
        end = entry if entry.kind == "refused" else decided(entries, entry)
        if end is not None or _is_young(entry, now):
            return end or entry
    return None


def approval_of(entries: Sequence[Entry], request: Entry) -> Entry | None:
    """The entry by which a request was approved, whether or not the promotion that follows is there."""
    return next((e for e in entries if e.kind == "approved" and e.body.get("request") == request.digest), None)


def check_open(entries: Sequence[Entry], request: Entry) -> None:
    """Raise GateStop if somebody decided on ``request``."""
    if (end := decided(entries, request)) is not None:
        raise GateStop(f"request {request.number} was {end.kind} by entry {end.number}", hint="nothing is left to do")


def check_approval(entries: Sequence[Entry], request: Entry, by: str, now: datetime) -> None:
    """Raise GateStop, saying why, unless ``by`` may approve ``request`` now."""
    body = request.body
    check_open(entries, request)
    _check_request(request)
    if same_person(by, body["requested_by"]) and not body["requester_may_approve"]:
        raise _refusal(request, f"{by} asked for it, and the policy wants someone else", "let another person approve")
    if (gone := withdrawal(entries, body["commit"], body["policy"])) is not None:
        raise _refusal(request, f"the model was {gone.kind} by entry {gone.number}", "promote another one")
    champion = current(entries, request.model).champion
    if (champion.commit if champion else None) != body["champion"]:
        now_is = f"{champion.run}@{champion.iteration}" if champion else "nobody"
        raise _refusal(request, f"the champion changed since: it is {now_is}", "ask again: raft promote")
    age = _evidence_age(request, now)
    if age < -CLOCKS_DIFFER:
        told = f"its evidence is dated {body['evidence'].get('time')}, which is still to come"
        raise _refusal(request, told, "set the clock of the machine that measured, and ask again: raft promote")
    if age > timedelta(hours=body["max_evidence_age_h"]):
        hours = age.total_seconds() / 3600
        told = f"its evidence is {hours:.1f} h old, and {body['max_evidence_age_h']:g} h are allowed"
        raise _refusal(request, told, "ask again: raft promote")


def _is_young(request: Entry, now: datetime) -> bool:
    hours = request.body.get("max_evidence_age_h")
    return isinstance(hours, int | float) and _evidence_age(request, now) <= timedelta(hours=hours)


def _evidence_age(request: Entry, now: datetime) -> timedelta:
    """How old the evidence of a request is; without a time that can be read it is older than any."""
    try:
        measured = datetime.fromisoformat(request.body["evidence"]["time"])
        return now - measured
    except (KeyError, TypeError, ValueError):
        return timedelta.max


def _refusal(request: Entry, why: str, do: str) -> GateStop:
    return GateStop(f"request {request.number} cannot be approved: {why}", hint=do)
