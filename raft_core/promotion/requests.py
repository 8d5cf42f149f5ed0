"""Requests for promotion in the ledger: which are open, and whether a person may approve one now."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from raft_core.errors import GateStop, InputError, IntegrityError
from raft_core.promotion.ledger import Entry, current, withdrawal
from raft_core.promotion.people import same_person
from raft_core.records.policy_ref import policy_name

CLOCKS_DIFFER = timedelta(minutes=5)
"""Allowed between the clocks of two machines; evidence dated further in the future has an unknown age."""
MIN_DIGEST = 6
"""Digits that an abbreviated digest of an entry must have at least."""
_AGAIN = "request the promotion again: raft promote"


def find_request(entries: Sequence[Entry], text: str) -> Entry:
    """The request with the number ``text``, or whose digest begins with it. Raises InputError."""
    found = [e for e in entries if e.kind == "requested" and _matches(e, text)]
    if len(found) != 1:
        waiting = ", ".join(str(entry.number) for entry in open_requests(entries)) or "none"
        raise InputError(
            f"{'no request' if not found else 'more than one request'} in the ledger matches {text!r}",
            expected=f"the number of a request, or the first digits of its digest; open requests: {waiting}",
            hint="raft ledger lists the requests",
        )
    return found[0]


def _check_request(request: Entry) -> None:
    """Raise IntegrityError if ``request`` lacks a value that an approval depends on."""
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
            f"request {request.number} in the ledger has no readable {wrong[0]}",
            got=repr(request.body.get(wrong[0])),
            expected=f"a request with {', '.join(wanted)}",
            hint=f"raft reject {request.number}, then request again with raft promote",
        )


def _matches(entry: Entry, text: str) -> bool:
    return text == str(entry.number) or (len(text) >= MIN_DIGEST and entry.digest.startswith(text))


def open_requests(entries: Sequence[Entry]) -> list[Entry]:
    """Requests that are neither promoted nor rejected yet, in order."""
    return [e for e in entries if e.kind == "requested" and decided(entries, e) is None]


def decided(entries: Sequence[Entry], request: Entry) -> Entry | None:
    """The entry that ended a request: promoted or rejected. (``approved`` alone: a kill cut the promotion short.)"""
    ends = ("promoted", "rejected")
    return next((e for e in entries if e.kind in ends and e.body.get("request") == request.digest), None)


def answer(entries: Sequence[Entry], model: str, commit: str, rules: str, now: datetime) -> Entry | None:
    """The latest entry that already answers whether ``commit`` may become champion; None: it has to be measured.

    Under the same ``rules`` (digest) and against the present champion it was refused, was rejected, or waits for
    approval with evidence that is still recent enough; or it was champion before and was replaced.
    """
    now_champion = current(entries, model).champion
    champion = now_champion.commit if now_champion else None
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
    """The entry that approved a request, also if a kill kept the promotion from being written."""
    return next((e for e in entries if e.kind == "approved" and e.body.get("request") == request.digest), None)


def check_open(entries: Sequence[Entry], request: Entry) -> None:
    """Raise GateStop if ``request`` was already promoted or rejected."""
    if (end := decided(entries, request)) is not None:
        raise GateStop(
            f"request {request.number} is closed: it was {end.kind} by entry {end.number}",
            hint="raft ledger lists the open requests",
        )


def check_approval(entries: Sequence[Entry], request: Entry, by: str, now: datetime) -> None:
    """Raise GateStop with the reason unless ``by`` may approve ``request`` now."""
    body = request.body
    check_open(entries, request)
    _check_request(request)
    if same_person(by, body["requested_by"]) and not body["requester_may_approve"]:
        raise _refusal(
            request,
            f"{by} requested it, and requester_may_approve is false in the promotion rules",
            "let another person run raft approve",
        )
    if (withdrawn := withdrawal(entries, body["commit"], body["policy"])) is not None:
        raise _refusal(
            request,
            f"{policy_name(body['run'], body['iteration'])} was {withdrawn.kind} by entry {withdrawn.number}",
            "promote another model",
        )
    champion = current(entries, request.model).champion
    if (champion.commit if champion else None) != body["champion"]:
        now_is = f"it is {champion} now" if champion else "there is none now"
        raise _refusal(request, f"the champion changed since the request; {now_is}", _AGAIN)
    age = _evidence_age(request, now)
    if age < -CLOCKS_DIFFER:
        why = f"its evidence is dated {body['evidence'].get('time')}, which is in the future"
        raise _refusal(request, why, f"correct the clock of the machine that measured, then {_AGAIN}")
    if age > timedelta(hours=body["max_evidence_age_h"]):
        hours = age.total_seconds() / 3600
        why = f"its evidence is {hours:.1f} h old; max_evidence_age_h allows {body['max_evidence_age_h']:g} h"
        raise _refusal(request, why, _AGAIN)


def _is_young(request: Entry, now: datetime) -> bool:
    hours = request.body.get("max_evidence_age_h")
    return isinstance(hours, int | float) and _evidence_age(request, now) <= timedelta(hours=hours)


def _evidence_age(request: Entry, now: datetime) -> timedelta:
    """How old the evidence of a request is; the maximum if it has no readable time."""
    try:
        measured = datetime.fromisoformat(request.body["evidence"]["time"])
        return now - measured
    except (KeyError, TypeError, ValueError):
        return timedelta.max


def _refusal(request: Entry, why: str, hint: str) -> GateStop:
    return GateStop(f"request {request.number} cannot be approved: {why}", hint=hint)
