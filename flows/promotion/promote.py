"""Promotion: compare a candidate with the champion on evidence, decide, and write the decision into the ledger."""

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
from raft_core.audit.withdrawn import find_withdrawal
from raft_core.errors import ConfigError, GateStop, IntegrityError, LedgerMovedError, RaftError
from raft_core.promotion.decision import Verdict, decide
from raft_core.promotion.ledger import Entry, Kind, Ledger, NamedPolicy, current, last_digest
from raft_core.promotion.rules import PromotionRules, SafetySuite, load_rules, rules_digest
from raft_core.records.collected import block_gc
from raft_core.records.overview import find_run, view_run
from raft_core.records.policy_ref import PolicyRef, policy_name, policy_ref
from raft_core.records.run import BASE, Run, read_events, record_event
from tasks.promotion.evidence import Gathered, check_side, examination, gather
from tasks.promotion.hooks import run_hooks
from tasks.promotion.ledger import open_ledger
from tasks.promotion.verified import VerifiedPolicy, verified_policy
from tasks.tracking.registry import model_name

Rules = tuple[PromotionRules, SafetySuite | None]
"""Promotion rules and the safety suite that they name."""
ATTEMPTS = 100
"""Comparisons before a promotion gives up because the champion changes during each of them."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs, registry and ledger are, and what progress is reported to."""

    workspace: Path
    tracking_uri: str
    ledger_uri: str
    reporter: Reporter = field(default_factory=Reporter)
    without_mlflow: bool = False
    """Continue if MLflow cannot be reached to check run and ledger (``--without-mlflow``)."""

    @property
    def ledger(self) -> Ledger:
        """The ledger itself."""
        return open_ledger(self.ledger_uri)


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks to promote which model, why, and by which rules file."""

    candidate: str
    by: str
    reason: str
    rules_file: Path | None
    dry_run: bool = False
    agree: Callable[[Verdict], bool] = lambda verdict: True
    """Called once all gates pass, before anything is written; False: write nothing."""


Status = Literal["promoted", "refused", "requested", "rejected", "rolled_back", "unchanged", "dry_run", "declined"]
EVENTS = {"promoted": PROMOTED, "rolled_back": PROMOTED, "requested": AWAITING}
"""Kind of ledger entry → event that automations react to (``flows.orchestration.automations``)."""
STATUS: Mapping[str, Status] = {"promoted": "promoted", "refused": "refused", "requested": "requested"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an act ended. ``entry``: the ledger entry, None if nothing was written."""

    status: Status
    message: str
    entry: Entry | None = None
    verdict: Verdict | None = None


def promote_model(question: Question, place: Place) -> Outcome:
    """Verify, measure both sides, decide, record; then update MLflow and run the hooks.

    Compares again if the champion changes meanwhile. Raises a RaftError; then nothing is written.
    """
    question = replace(question, by=person(question.by), reason=words(question.reason))
    rules = load_rules(question.rules_file)
    with weights_kept(place):
        candidate = find_candidate(question, place)
        outcome = _compared(candidate, question, rules, place)
    if outcome.entry is not None:
        settle(place, candidate.run, outcome.entry, rules[0])
    return outcome


def _compared(candidate: VerifiedPolicy, question: Question, rules: Rules, place: Place) -> Outcome:
    for _ in range(ATTEMPTS):
        try:
            return _attempt(candidate, question, rules, place)
        except LedgerMovedError:
            place.reporter.say("the champion changed during the comparison: comparing again")
    raise GateStop(
        f"{candidate.ref} was not compared: the champion changed during each of {ATTEMPTS} comparisons",
        hint="run raft promote again when no other promotion is running",
    )


def _attempt(candidate: VerifiedPolicy, question: Question, rules: Rules, place: Place) -> Outcome:
    """One comparison with the present champion. Raises LedgerMovedError if another one replaced it meanwhile."""
    limits, suite = rules
    ledger, model = place.ledger, model_name(candidate.run)
    entries = ledger.entries()
    refuse_withdrawn(entries, candidate.ref)
    ask_witnesses(place, candidate.ref)
    champion = current(entries, model).champion
    if champion is not None and champion.commit == candidate.ref.digest:
        if not question.dry_run:
            settle_again(place, candidate.run, entries, champion, limits)
        return Outcome("unchanged", f"{candidate.ref} is already the champion of {model}")
    reference = _reference(champion, candidate, place, entries)
    ours, theirs, left_out = _evidence(candidate, reference, suite, limits, place)
    verdict = decide(ours.evidence, theirs.evidence, limits)
    kind: Kind = "refused" if not verdict.passed else "requested" if limits.approvals else "promoted"
    if question.dry_run:
        return Outcome("dry_run", f"would be {kind}: {verdict.reason}", verdict=verdict)
    if verdict.passed and not question.agree(verdict):
        return Outcome(
            "declined", f"nothing was written; {candidate.ref} would be {kind}: {verdict.reason}", verdict=verdict
        )
    body = {
        **candidate.ref.facts,
        "champion": champion.commit if champion else None,
        "against": reference.ref.facts,
        "decision": {**verdict.as_json(), "num_left_out": left_out},
        "evidence": {"candidate": ours.digest, "reference": theirs.digest, "time": min(ours.time, theirs.time)},
        "rules": rules_digest(limits, suite),
        "requested_by": question.by,
        "reason": question.reason,
        "approved_by": None,
        "approvals": limits.approvals,
        "requester_may_approve": limits.requester_may_approve,
        "max_evidence_age_h": limits.max_evidence_age_h,
    }

    def check(last: Sequence[Entry]) -> None:
        check_champion(last, model, champion, candidate.ref)

    entry = append(ledger, kind, model, body, check)
    return Outcome(STATUS[entry.kind], _message(entry, verdict), entry, verdict)


def weights_kept(place: Place) -> AbstractContextManager[object]:
    """Keep ``raft gc`` from removing weights while they are verified, measured or copied.

    In a workspace that is not writable gc cannot remove anything, so no lock is taken.
    """
    runs = place.workspace / "runs"
    return block_gc(runs) if os.access(runs, os.W_OK) else nullcontext()


def find_candidate(question: Question, place: Place) -> VerifiedPolicy:
    """The candidate that ``question`` names, verified."""
    return verified_policy(name_candidate(question, place), place.workspace, place.ledger.entries())


def name_candidate(question: Question, place: Place) -> PolicyRef:
    """The policy that ``question`` names, not verified yet; a run without an iteration means its best."""
    run, iteration = find_policy(place.workspace, question.candidate, place.tracking_uri)
    if iteration is None:
        iteration = view_run(run).best
    if iteration is None or iteration == BASE:
        raise ConfigError(
            f"the base of run {run.name} cannot be promoted: it was not aligned",
            got=policy_name(run.name, BASE),
            expected="an iteration, RUN@N",
            hint=f"raft show {run.name} lists the iterations of the run",
        )
    return policy_ref(run, iteration)


def refuse_withdrawn(entries: Sequence[Entry], ref: PolicyRef) -> None:
    """Raise GateStop if ``ref``, or a policy that it was trained from, was withdrawn."""
    if (found := find_withdrawal(entries, ref)) is not None:
        entry, sentence = found
        raise GateStop(f"{sentence} of the ledger", got=entry.body.get("reason"), hint="name another model")


def ask_witnesses(place: Place, ref: PolicyRef) -> None:
    """Compare a policy and the ledger with what MLflow and DVC's pointers know of them, before anything is written.

    Raises IntegrityError where they differ, StepError if MLflow cannot be reached. What could not be compared is
    reported as a warning.
    """
    from tasks.audit.witnesses import ask

    must_answer = not place.without_mlflow
    for unseen in ask(ref, place.workspace, place.tracking_uri, place.ledger, must_answer=must_answer):
        place.reporter.warn(f"not checked: {unseen}")


def _reference(
    champion: NamedPolicy | None, candidate: VerifiedPolicy, place: Place, entries: Sequence[Entry]
) -> VerifiedPolicy:
    """The champion; without one the candidate's own base."""
    ref = policy_ref(candidate.run, BASE) if champion is None else find_named(champion, place.workspace)
    return verified_policy(ref, place.workspace, entries)


def find_named(named: NamedPolicy, workspace: Path) -> PolicyRef:
    """The policy that a ledger entry names. Raises IntegrityError if the run of that name here is a different one."""
    ref = policy_ref(find_run(workspace, named.run), named.iteration)
    if ref.digest != named.commit:
        raise IntegrityError(
            f"{ref} in this workspace is not the policy that the ledger names",
            got=f"commit {ref.digest}",
            expected=f"commit {named.commit}",
            hint=f"restore {ref.run.path} from git",
        )
    return ref


def _evidence(
    candidate: VerifiedPolicy,
    reference: VerifiedPolicy,
    suite: SafetySuite | None,
    limits: PromotionRules,
    place: Place,
) -> tuple[Gathered, Gathered, int]:
    exam = examination(candidate, reference, suite)
    store, age = place.workspace / "promotions", timedelta(hours=limits.max_evidence_age_h)
    for side in (candidate, reference):
        check_side(side, exam, store, now=now(), max_age=age)
    found = []
    for role, side in (("candidate", candidate), ("reference", reference)):
        total = len(exam.prompts) * exam.config.sampling.max_new_tokens
        with place.reporter.step(f"{role} {side.ref}", total, "tokens") as advance:
            found.append(gather(side, exam, store, now=now(), max_age=age, progress=advance, warn=place.reporter.warn))
    return found[0], found[1], exam.num_left_out


# -- what every act of promotion ends with -----------------------------------------------------------


def append(
    ledger: Ledger, kind: Kind, model: str, body: dict[str, Any], check: Callable[[Sequence[Entry]], None]
) -> Entry:
    """Write an entry unless ``check``, called with every entry that is in the ledger by then, raises."""
    while True:
        entries = ledger.entries()
        check(entries)
        try:
            return ledger.append(kind, model, body, time=now().isoformat(), after=last_digest(entries))
        except LedgerMovedError:
            continue


def check_champion(entries: Sequence[Entry], model: str, champion: NamedPolicy | None, ref: PolicyRef) -> None:
    """Raise LedgerMovedError unless ``champion`` still is the champion; GateStop if ``ref`` was withdrawn."""
    now_champion = current(entries, model).champion
    if (now_champion.commit if now_champion else None) != (champion.commit if champion else None):
        raise LedgerMovedError(
            f"the champion of {model} changed while {ref} was being decided on",
            got=_shown(now_champion),
            expected=_shown(champion),
            hint="look at the new champion (raft ledger), then run this command again",
        )
    refuse_withdrawn(entries, ref)


def _shown(champion: NamedPolicy | None) -> str:
    return f"champion {champion}" if champion else "no champion"


def settle(place: Place, run: Run, entry: Entry, rules: PromotionRules | None) -> None:
    """After the ledger entry: update MLflow's aliases and run the hooks of ``rules``. Failures are warnings.

    This happens at least once: the event ``promotion`` is recorded last, and ``settle_again`` repeats everything
    while that event is missing.
    """
    from tasks.tracking.aliases import apply

    if entry.kind in EVENTS:
        chosen = policy_name(entry.body["run"], entry.body["iteration"])
        announce(EVENTS[entry.kind], "model", entry.model, act=entry.kind, entry=entry.number, policy=chosen)
    try:
        for missing in apply(place.ledger, place.workspace / "runs", place.tracking_uri):
            place.reporter.warn(missing)
    except (RaftError, OSError) as error:
        place.reporter.warn(
            f"entry {entry.number} is in the ledger, but MLflow was not updated (raft sync does that): {error}"
        )
    if rules is not None and entry.kind in ("promoted", "rolled_back"):
        for hook in run_hooks(rules, entry):
            record_event(run, "told", act=entry.kind, entry=entry.digest, what=hook.what, outcome=hook.outcome)
            if not hook.ok:
                place.reporter.warn(
                    f"hook {hook.what} failed after entry {entry.number} ({entry.kind}): {hook.outcome}"
                )
    record_event(
        run, "promotion", act=entry.kind, model=entry.model, entry=entry.digest, iteration=entry.body["iteration"]
    )


def settle_again(
    place: Place, run: Run, entries: Sequence[Entry], champion: NamedPolicy, rules: PromotionRules | None
) -> None:
    """Run ``settle`` again if a kill kept it from finishing after the champion's entry."""
    if all(event.get("entry") != champion.entry for event in read_events(run, "promotion")):
        place.reporter.say(f"{champion} became the champion, but the hooks did not all run: running them now")
        settle(place, run, next(entry for entry in entries if entry.digest == champion.entry), rules)


def now() -> datetime:
    """The present time in UTC, for entries and for the age of evidence."""
    return datetime.now(UTC)


def _message(entry: Entry, verdict: Verdict) -> str:
    named = policy_name(entry.body["run"], entry.body["iteration"])
    if entry.kind == "promoted":
        return f"{named} is the champion of {entry.model} (entry {entry.number}): {verdict.reason}"
    if entry.kind == "requested":
        return f"{named} passes every gate and waits for approval: raft approve {entry.number} (entry {entry.number})"
    return f"{named} is refused (entry {entry.number}): {verdict.reason}"
