"""A person approves or rejects a request for promotion, by a command or in Prefect's form."""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import UUID

import httpx
from prefect import runtime
from prefect.exceptions import FlowPauseTimeout, PrefectException
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.promotion.promote import (
    Outcome,
    Place,
    Rules,
    append,
    ask_witnesses,
    find_named,
    now,
    refuse_withdrawn,
    settle,
    weights_kept,
)
from flows.text import person, words
from raft_core.errors import ConfigError, RaftError
from raft_core.promotion.ledger import Entry, named_policy
from raft_core.promotion.requests import approval_of, check_approval, check_open, decided, find_request
from raft_core.promotion.rules import load_rules, rules_digest
from raft_core.records.policy_ref import policy_name
from tasks.promotion.verified import verified_policy

POLL_S = 1
NOT_YET = (PrefectException, RuntimeError, httpx.HTTPError, RaftError, OSError)
"""What Prefect or the ledger raise while the form is not ready or a server cannot be reached: tried again later."""


class Approval(RunInput):
    """What Prefect's form asks for while a promotion waits."""

    approve: bool
    by: str = Field(min_length=1)
    reason: str = ""


def approve(request: str, by: str, reason: str, place: Place, rules: Rules) -> Outcome:
    """Approve a request: its model is verified again and becomes the champion.

    Writes two entries, approved and promoted; if a kill came between them, approving again writes the second.
    Raises GateStop if ``by`` may not approve it, ConfigError if ``rules`` are not those of the request (they name the
    hooks to run).
    """
    by, reason = person(by), words(reason)
    ledger = place.ledger
    entries = ledger.entries()
    asked = find_request(entries, request)
    check_approval(entries, asked, by, now())
    _check_rules(asked, rules)
    ref = find_named(named_policy(asked), place.workspace)
    with weights_kept(place):
        verified_policy(ref, place.workspace, entries)
        ask_witnesses(place, ref)

        def check(last: Sequence[Entry]) -> None:
            check_approval(last, asked, by, now())
            refuse_withdrawn(last, ref)

        agreed = approval_of(entries, asked) or append(
            ledger,
            "approved",
            asked.model,
            {**ref.facts, "request": asked.digest, "approved_by": by, "reason": reason},
            check,
        )
        body = {**asked.body, "request": asked.digest, "approved_by": agreed.body["approved_by"]}
        entry = append(ledger, "promoted", asked.model, body, check)
    settle(place, ref.run, entry, rules[0])
    return Outcome(
        "promoted", f"{ref} is the champion of {entry.model} (entry {entry.number}), approved by {by}", entry
    )


def _check_rules(asked: Entry, rules: Rules) -> None:
    if (given := rules_digest(*rules)) != asked.body["rules"]:
        raise ConfigError(
            f"request {asked.number} was made under other promotion rules",
            got=f"rules with digest {given}",
            expected=f"rules with digest {asked.body['rules']}",
            hint="pass the rules file of the request with --rules FILE, or request again with raft promote",
        )


def reject(request: str, by: str, reason: str, place: Place) -> Outcome:
    """Reject an open request; the requester may do that too.

    Raises IntegrityError for a ledger that lacks entries that MLflow knows.
    """
    from tasks.audit.witnesses import ask_ledger

    by, reason = person(by), words(reason)
    ledger = place.ledger
    entries = ledger.entries()
    asked = find_request(entries, request)
    check_open(entries, asked)
    ask_ledger([asked.model], place.tracking_uri, ledger)
    named = {key: asked.body[key] for key in ("commit", "policy", "run", "iteration")}
    body = {**named, "request": asked.digest, "rejected_by": by, "reason": reason}
    entry = append(ledger, "rejected", asked.model, body, lambda last: check_open(last, asked))
    return Outcome("rejected", f"request {asked.number} was rejected by {by} (entry {entry.number}): {reason}", entry)


def wait_for_decision(request: Entry, place: Place, wait_s: float) -> Outcome:
    """Wait at most ``wait_s`` seconds for somebody to approve or reject the request with a command."""
    deadline = time.monotonic() + wait_s
    while (end := decided(place.ledger.entries(), request)) is None:
        if time.monotonic() > deadline:
            return Outcome(
                "requested",
                f"nobody approved or rejected request {request.number} within {wait_s:g} s; it stays open",
                request,
            )
        time.sleep(POLL_S)
    return _ended(request, end)


def _ended(request: Entry, end: Entry) -> Outcome:
    if end.kind == "promoted":
        return Outcome("promoted", f"request {request.number} was approved by {end.body['approved_by']}", end)
    return Outcome("rejected", f"request {request.number} was rejected by {end.body['rejected_by']}", end)


@contextmanager
def _woken_by_a_command(request: Entry, place: Place) -> Iterator[None]:
    """Resume the paused flow once a command decides, because Prefect does not watch the ledger."""
    flow_run, over = UUID(runtime.flow_run.id), threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            with suppress(*NOT_YET):
                if (end := decided(place.ledger.entries(), request)) is not None:
                    who = end.body.get("approved_by") or end.body["rejected_by"]
                    resume_flow_run(flow_run, {"approve": end.kind == "promoted", "by": who})
                    return

    watcher = threading.Thread(target=watch, name="raft-approval", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def decide_by_pause(request: Entry, place: Place, rules_file: Path | None, wait_s: float) -> Outcome:
    """Inside a flow on a server: pause until the form is submitted. It is checked as the commands are.

    A decision by a command resumes the flow too.

    Raises GateStop for a person who may not approve; the request then stays open.
    """
    body = request.body
    about = (
        f"**{policy_name(body['run'], body['iteration'])}** as champion of **{request.model}**, requested by "
        f"{body['requested_by']}: "
        f"{body['reason'] or 'no reason given'}\n\n{body['decision']['reason']}\n\n"
        f"You can also type: `raft approve {request.number}`"
    )
    try:
        with _woken_by_a_command(request, place):
            answer = pause_flow_run(
                wait_for_input=Approval.with_initial_data(description=about),
                timeout=math.ceil(wait_s),
                poll_interval=POLL_S,
                key=f"approval-{request.number}",
            )
    except FlowPauseTimeout:
        return wait_for_decision(request, place, 0)
    if (end := decided(place.ledger.entries(), request)) is not None:
        return _ended(request, end)
    number = str(request.number)
    if answer.approve:
        return approve(number, answer.by, answer.reason, place, load_rules(rules_file))
    return reject(number, answer.by, answer.reason, place)
