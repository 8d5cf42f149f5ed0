"""Promotion: hold a candidate against the champion on evidence, decide, and write it into the ledger."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from flows.models import find_policy
from flows.orchestration.events import AWAITING, PROMOTED, announce
from flows.process.progress import Reporter
from flows.text import person, words
from raft_core.audit.descent import find_withdrawal
from raft_core.errors import ConfigError, GateStop, IntegrityError, LedgerMovedError, RaftError
from raft_core.promotion.decision import Verdict, decide
from raft_core.promotion.ledger import Entry, Holder, Kind, Ledger, current, last_digest
from raft_core.promotion.rules import PromotionRules, SafetySuite, load_policy, policy_digest
from raft_core.records.collected import nothing_collected
from raft_core.records.overview import find_run, view_run
from raft_core.records.run import BASE, Run, read_events, record_event
from tasks.promotion.evidence import Gathered, check_side, examination, gather
from tasks.promotion.hooks import tell_others
from tasks.promotion.ledger import open_ledger
from tasks.promotion.policy_ref import Contender, committed, contender
from tasks.tracking.registry import model_name

Rules = tuple[PromotionRules, SafetySuite | None]
"""A policy file and the suite that it names."""
ATTEMPTS = 100
"""Of a promotion whose champion changes under it again and again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs, registry and ledger lie, and who watches."""

    workspace: Path
    tracking_uri: str
    ledger_uri: str
    reporter: Reporter = field(default_factory=Reporter)
    without_mlflow: bool = False
    """Go on where MLflow cannot be asked what it has seen: a person said so."""

    @property
    def ledger(self) -> Ledger:
        """The ledger itself."""
        return open_ledger(self.ledger_uri)


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks for which model, why, and under which policy file."""

    candidate: str
    by: str
    reason: str
    policy_file: Path | None
    dry_run: bool = False
    agree: Callable[[Verdict], bool] = lambda verdict: True
    """Asked before anything is written, once the gates are open."""


Status = Literal["promoted", "refused", "requested", "rejected", "rolled_back", "unchanged", "dry_run", "declined"]
EVENTS = {"promoted": PROMOTED, "rolled_back": PROMOTED, "requested": AWAITING}
"""Acts that automations hear of (``flows.orchestration.automations``)."""
STATUS: Mapping[str, Status] = {"promoted": "promoted", "refused": "refused", "requested": "requested"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. ``entry``: None if nothing was written."""

    status: Status
    message: str
    entry: Entry | None = None
    verdict: Verdict | None = None


def promote_model(question: Question, place: Place) -> Outcome:
    """Verify, measure both sides, decide, record; then bring it into MLflow and tell others.

    Starts again where another champion came meanwhile. Raises a RaftError; nothing is written then.
    """
    question = replace(question, by=person(question.by), reason=words(question.reason))
    rules = load_policy(question.policy_file)
    with weights_kept(place):
        candidate = find_candidate(question, place)
        outcome = _compared(candidate, question, rules, place)
    if outcome.entry is not None:
        settle(place, candidate.run, outcome.entry, rules[0])
    return outcome


def _compared(candidate: Contender, question: Question, rules: Rules, place: Place) -> Outcome:
    for _ in range(ATTEMPTS):
        try:
            return _attempt(candidate, question, rules, place)
        except LedgerMovedError:
            place.reporter.say("the ledger has moved on meanwhile: comparing again")
    raise GateStop(f"the champion changed {ATTEMPTS} times meanwhile", hint="ask again when others are done")


def _attempt(candidate: Contender, question: Question, rules: Rules, place: Place) -> Outcome:
    """One comparison with the present champion. Raises LedgerMovedError if it is not the present one any more."""
    policy, suite = rules
    ledger, model = place.ledger, model_name(candidate.run)
    entries = ledger.entries()
    refuse_withdrawn(entries, candidate.run, candidate.iteration)
    ask_witnesses(place, candidate.run, candidate.iteration)
    champion = current(entries, model).champion
    if champion is not None and champion.commit == candidate.commit.digest:
        if not question.dry_run:
            settle_again(place, candidate.run, entries, champion, policy)
        return Outcome("unchanged", f"{_name(candidate)} is the champion of {model} already")
    reference = _reference(champion, candidate, place, entries)
    ours, theirs, left_out = _evidence(candidate, reference, suite, policy, place)
    verdict = decide(ours.evidence, theirs.evidence, policy)
    kind: Kind = "refused" if not verdict.passed else "requested" if policy.approvals else "promoted"
    if question.dry_run:
        return Outcome("dry_run", f"would be {kind}: {verdict.reason}", verdict=verdict)
    if verdict.passed and not question.agree(verdict):
        return Outcome("declined", f"nothing was written; it would be {kind}: {verdict.reason}", verdict=verdict)
    body = {
        **candidate.named,
        "champion": champion.commit if champion else None,
        "against": reference.named,
        "decision": {**verdict.as_json(), "num_left_out": left_out},
        "evidence": {"candidate": ours.digest, "reference": theirs.digest, "time": min(ours.time, theirs.time)},
        "rules": policy_digest(policy, suite),
        "requested_by": question.by,
        "reason": question.reason,
        "approved_by": None,
        "approvals": policy.approvals,
        "requester_may_approve": policy.requester_may_approve,
        "max_evidence_age_h": policy.max_evidence_age_h,
    }

    def check(last: Sequence[Entry]) -> None:
        check_standing(last, model, champion, candidate.run, candidate.iteration)

    entry = append(ledger, kind, model, body, check)
    return Outcome(STATUS[entry.kind], _told(entry, verdict), entry, verdict)


def weights_kept(place: Place) -> AbstractContextManager[object]:
    """Until it is left ``raft gc`` takes nothing: what is verified, measured or copied stays until the ledger has it.

    From a workspace that cannot be written, nothing can be taken either.
    """
    runs = place.workspace / "runs"
    return nothing_collected(runs) if os.access(runs, os.W_OK) else nullcontext()


def find_candidate(question: Question, place: Place) -> Contender:
    """The verified candidate that a person names; none: the best iteration of the run."""
    return contender(*name_candidate(question, place), place.workspace, place.ledger.entries())


def name_candidate(question: Question, place: Place) -> tuple[Run, int]:
    """The run and iteration that a person means, not verified yet."""
    run, iteration = find_policy(place.workspace, question.candidate, place.tracking_uri)
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or iteration == BASE:
        raise ConfigError(
            "the base is no candidate: nothing was aligned", got=f"run {run.name}", hint="name an iteration: RUN@N"
        )
    return run, iteration


def refuse_withdrawn(entries: Sequence[Entry], run: Run, iteration: int) -> None:
    """Raise GateStop for a model that was withdrawn or erased, or was trained from one that was."""
    if (found := find_withdrawal(entries, run, iteration)) is not None:
        gone, told = found
        raise GateStop(f"{told} of the ledger", got=gone.body.get("reason"), hint="name another model")


def ask_witnesses(place: Place, run: Run, iteration: int) -> None:
    """Hold a policy and the ledger against what registry and pointers have seen of them, before anything is written.

    Raises IntegrityError where they differ, StepError while MLflow is away. What could not be asked is said.
    """
    from tasks.audit.witnesses import ask

    must_answer = not place.without_mlflow
    for unseen in ask(run, iteration, place.workspace, place.tracking_uri, place.ledger, must_answer=must_answer):
        place.reporter.warn(f"not seen: {unseen}")


def _reference(champion: Holder | None, candidate: Contender, place: Place, entries: Sequence[Entry]) -> Contender:
    """The champion; without one the candidate's own base."""
    if champion is None:
        return contender(candidate.run, BASE, place.workspace, entries)
    return contender(run_of(champion, place.workspace), champion.iteration, place.workspace, entries)


def run_of(holder: Holder, workspace: Path) -> Run:
    """The run of a version in the ledger. Raises IntegrityError if the folder of that name is another one."""
    run = find_run(workspace, holder.run)
    if committed(run, holder.iteration).digest != holder.commit:
        raise IntegrityError(
            f"run {run.name} in this folder is not the one that the ledger names",
            got=f"commit {committed(run, holder.iteration).digest}",
            expected=f"commit {holder.commit}",
            hint="get that run's folder from git",
        )
    return run


def _evidence(
    candidate: Contender, reference: Contender, suite: SafetySuite | None, policy: PromotionRules, place: Place
) -> tuple[Gathered, Gathered, int]:
    exam = examination(candidate, reference, suite)
    store, age = place.workspace / "promotions", timedelta(hours=policy.max_evidence_age_h)
    for side in (candidate, reference):
        check_side(side, exam, store, now=now(), max_age=age)
    found = []
    for title, side in (("candidate", candidate), ("reference", reference)):
        total = len(exam.prompts) * exam.config.sampling.max_new_tokens
        with place.reporter.step(f"{title} {_name(side)}", total, "tokens") as advance:
            found.append(gather(side, exam, store, now=now(), max_age=age, progress=advance, warn=place.reporter.warn))
    return found[0], found[1], exam.num_left_out


# -- what every act of promotion ends with -----------------------------------------------------------


def append(
    ledger: Ledger, kind: Kind, model: str, body: dict[str, Any], check: Callable[[Sequence[Entry]], None]
) -> Entry:
    """Write the act, if ``check`` has nothing against it once everything else is in the ledger (it raises)."""
    while True:
        entries = ledger.entries()
        check(entries)
        try:
            return ledger.append(kind, model, body, time=now().isoformat(), after=last_digest(entries))
        except LedgerMovedError:
            continue


def check_standing(entries: Sequence[Entry], model: str, champion: Holder | None, run: Run, iteration: int) -> None:
    """Raise LedgerMovedError unless ``champion`` still is; GateStop if the policy of ``iteration`` was withdrawn."""
    holder = current(entries, model).champion
    if (holder.commit if holder else None) != (champion.commit if champion else None):
        raise LedgerMovedError(f"{model} has another champion since", hint="look at it (raft ledger) and ask again")
    refuse_withdrawn(entries, run, iteration)


def settle(place: Place, run: Run, entry: Entry, policy: PromotionRules | None) -> None:
    """After the ledger: MLflow's aliases, the policy's commands. Their failures are warnings.

    At least once: the event ``promotion`` comes last, and while it is missing ``settle_again`` does it all anew.
    """
    from tasks.tracking.aliases import apply

    if entry.kind in EVENTS:
        chosen = f"{entry.body['run']}@{entry.body['iteration']}"
        announce(EVENTS[entry.kind], "model", entry.model, act=entry.kind, entry=entry.number, policy=chosen)
    try:
        for missing in apply(place.ledger, place.workspace / "runs", place.tracking_uri):
            place.reporter.warn(missing)
    except (RaftError, OSError) as error:
        place.reporter.warn(f"the ledger has it, MLflow not yet (raft sync fills it in): {error}")
    if policy is not None and entry.kind in ("promoted", "rolled_back"):
        for told in tell_others(policy, entry):
            record_event(run, "told", act=entry.kind, entry=entry.digest, what=told.what, outcome=told.outcome)
            if not told.ok:
                place.reporter.warn(f"after {entry.kind}: {told.what}: {told.outcome}")
    record_event(
        run, "promotion", act=entry.kind, model=entry.model, entry=entry.digest, iteration=entry.body["iteration"]
    )


def settle_again(
    place: Place, run: Run, entries: Sequence[Entry], champion: Holder, policy: PromotionRules | None
) -> None:
    """Make up for what a kill left out between the champion's entry and the end of ``settle``."""
    if all(event.get("entry") != champion.entry for event in read_events(run, "promotion")):
        place.reporter.say(f"{champion.run}@{champion.iteration} became the champion, but nobody was told: told now")
        settle(place, run, next(entry for entry in entries if entry.digest == champion.entry), policy)


def now() -> datetime:
    """The clock: acts bear the time, evidence has an age."""
    return datetime.now(UTC)


def _name(side: Contender) -> str:
    return f"{side.run.name}@{'base' if side.iteration == BASE else side.iteration}"


def _told(entry: Entry, verdict: Verdict) -> str:
    named = f"{entry.body['run']}@{entry.body['iteration']}"
    if entry.kind == "promoted":
        return f"{named} is the champion of {entry.model} (entry {entry.number}): {verdict.reason}"
    if entry.kind == "requested":
        return f"{named} passes, and waits for an approval: raft approve {entry.number} (entry {entry.number})"
    return f"{named} is refused (entry {entry.number}): {verdict.reason}"
