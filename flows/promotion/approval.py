"""A person decides: approve or reject a request for promotion, by a command or in Prefect's form."""

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
    now,
    refuse_withdrawn,
    run_of,
    settle,
    weights_kept,
)
from flows.text import person, words
from raft_core.errors import ConfigError, RaftError
from raft_core.promotion.ledger import Entry, holder_of
from raft_core.promotion.requests import approval_of, check_approval, check_open, decided, find_request
from raft_core.promotion.rules import load_policy, policy_digest
from tasks.promotion.policy_ref import contender

POLL_S = 1
NOT_YET = (PrefectException, RuntimeError, httpx.HTTPError, RaftError, OSError)
"""What the form or the ledger say that is not ready, or away: a later look may find it."""


class Approval(RunInput):
    """What Prefect's form asks for while a promotion waits."""

    approve: bool
    by: str = Field(min_length=1)
    reason: str = ""


def approve(request: str, by: str, reason: str, place: Place, rules: Rules) -> Outcome:
    """Approve a request: its model, verified again, becomes the champion.

    Two entries: approved, promoted. What a kill left between them is made up for by approving again.
    Raises GateStop if ``by`` may not, ConfigError for other ``rules`` than the request's: they say who is told.
    """
    by, reason = person(by), words(reason)
    ledger = place.ledger
    entries = ledger.entries()
    asked = find_request(entries, request)
    check_approval(entries, asked, by, now())
    _check_rules(asked, rules)
    holder = holder_of(asked)
    with weights_kept(place):
        side = contender(run_of(holder, place.workspace), holder.iteration, place.workspace, entries)
        ask_witnesses(place, side.run, side.iteration)

        def check(last: Sequence[Entry]) -> None:
            check_approval(last, asked, by, now())
            refuse_withdrawn(last, side.run, side.iteration)

        agreed = approval_of(entries, asked) or append(
            ledger,
            "approved",
            asked.model,
            {**side.named, "request": asked.digest, "approved_by": by, "reason": reason},
            check,
        )
        body = {**asked.body, "request": asked.digest, "approved_by": agreed.body["approved_by"]}
        entry = append(ledger, "promoted", asked.model, body, check)
    settle(place, side.run, entry, rules[0])
    named = f"{holder.run}@{holder.iteration}"
    return Outcome(
        "promoted", f"{named} is the champion of {entry.model} (entry {entry.number}), approved by {by}", entry
    )


def _check_rules(asked: Entry, rules: Rules) -> None:
    if (given := policy_digest(*rules)) != asked.body["rules"]:
        raise ConfigError(
            f"request {asked.number} was asked under another promotion policy",
            got=given,
            expected=asked.body["rules"],
            hint="say --policy FILE, the one that it was asked under; or ask again",
        )


def reject(request: str, by: str, reason: str, place: Place) -> Outcome:
    """Reject an open request. Whoever asked may take it back so.

    Raises IntegrityError for a ledger that lacks what MLflow has seen of it.
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
    return Outcome("rejected", f"request {asked.number} is rejected by {by} (entry {entry.number}): {reason}", entry)


def wait_for_decision(request: Entry, place: Place, wait_s: float) -> Outcome:
    """Wait until somebody approves or rejects with a command, ``wait_s`` seconds at most."""
    deadline = time.monotonic() + wait_s
    while (end := decided(place.ledger.entries(), request)) is None:
        if time.monotonic() > deadline:
            return Outcome("requested", f"nobody decided on request {request.number} within {wait_s:g} s", request)
        time.sleep(POLL_S)
    return _ended(request, end)


def _ended(request: Entry, end: Entry) -> Outcome:
    if end.kind == "promoted":
        return Outcome("promoted", f"request {request.number} was approved by {end.body['approved_by']}", end)
    return Outcome("rejected", f"request {request.number} was rejected by {end.body['rejected_by']}", end)


@contextmanager
def _woken_by_a_command(request: Entry, place: Place) -> Iterator[None]:
    """Send the form of the paused flow once a command decided: Prefect hears of no ledger."""
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


def decide_by_pause(request: Entry, place: Place, policy_file: Path | None, wait_s: float) -> Outcome:
    """Inside a flow on a server: pause it until the form is sent; the same checks as for the command hold.

    A decision by a command sends the form as well.

    Raises GateStop for a person who may not approve; the request then stays open.
    """
    body = request.body
    about = (
        f"**{body['run']}@{body['iteration']}** as champion of **{request.model}**, asked by {body['requested_by']}: "
        f"{body['reason'] or 'no reason given'}\n\n{body['decision']['reason']}\n\n"
        f"Or on a command line: `raft approve {request.number}`"
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
        return approve(number, answer.by, answer.reason, place, load_policy(policy_file))
    return reject(number, answer.by, answer.reason, place)
