"""Back to an earlier champion: seconds, audited, and nothing is deleted."""

from collections.abc import Sequence

from flows.promotion.promote import (
    Outcome,
    Place,
    append,
    ask_witnesses,
    check_standing,
    run_of,
    settle,
    settle_again,
    weights_kept,
)
from flows.text import person, words
from raft_core.errors import ConfigError, GateStop, InputError
from raft_core.promotion.ledger import Entry, Holder, current, holder_of, withdrawal
from raft_core.promotion.rules import PromotionRules
from raft_core.records.run import Run
from raft_core.types import Policy
from tasks.loop.prepare import committed_policy, initial_policy
from tasks.promotion.policy_ref import fetch_weights

MAX_VERSION_DIGITS = 6
"""A longer number is the beginning of a digest."""


def roll_back(model: str | None, to: str, by: str, reason: str, place: Place, policy: PromotionRules | None) -> Outcome:
    """Make an earlier champion the champion again, once its weights are at hand and are its own.

    ``to``: previous, the first digits of a commit, or a version number of MLflow. Only what was a
    champion can be returned to, so no gate is passed by. Raises GateStop for a withdrawn one.
    """
    by, reason = person(by), words(reason)
    ledger = place.ledger
    entries = ledger.entries()
    name = the_model(entries, model)
    champion = current(entries, name).champion
    target = find_holder(entries, name, to, place)
    ask_witnesses(place, run_of(target, place.workspace), target.iteration)
    if champion is not None and target.commit == champion.commit:
        settle_again(place, run_of(target, place.workspace), entries, champion, policy)
        return Outcome("unchanged", f"{target.run}@{target.iteration} is the champion of {name} already")
    with weights_kept(place):
        run = run_of(target, place.workspace)
        weights(run, target.iteration, place)
        body = {
            "commit": target.commit,
            "policy": target.policy,
            "run": target.run,
            "iteration": target.iteration,
            "from": champion.commit if champion else None,
            "requested_by": by,
            "reason": reason,
        }

        def check(last: Sequence[Entry]) -> None:
            check_standing(last, name, champion, run, target.iteration)

        entry = append(ledger, "rolled_back", name, body, check)
    settle(place, run, entry, policy)
    return Outcome(
        "rolled_back", f"{target.run}@{target.iteration} is the champion of {name} again (entry {entry.number})", entry
    )


def the_model(entries: Sequence[Entry], model: str | None) -> str:
    """``model``, or the only one that ever had a champion. Raises ConfigError."""
    models = sorted({e.model for e in entries if e.kind in ("promoted", "rolled_back")})
    if model is None and len(models) == 1:
        return models[0]
    if model in models:
        return str(model)
    raise ConfigError(
        "no champion in the ledger" if not models else "which model?",
        got=model,
        expected=", ".join(models) or None,
        hint="raft promote RUN" if not models else "say --model NAME",
    )


def find_holder(entries: Sequence[Entry], model: str, which: str, place: Place) -> Holder:
    """A present or earlier champion: champion, previous, a version number, or the first digits of a commit.

    Raises InputError where there is none, GateStop for one that was withdrawn.
    """
    standing = current(entries, model)
    if which in ("champion", "previous"):
        found = standing.champion if which == "champion" else standing.previous
        if found is None:
            raise InputError(f"{model} has no {which}", hint="raft ledger shows what it had")
        return found
    commit = _commit_of_version(model, which, place) if _is_version(which) else which
    held = {e.body["commit"]: e for e in entries if e.model == model and e.kind in ("promoted", "rolled_back")}
    matching = [entry for digest, entry in held.items() if digest.startswith(commit)]
    if len(matching) != 1 or not commit:
        raise InputError(
            f"{'no' if not matching else 'more than one'} champion of {model} is meant by {which!r}",
            expected="previous, a version number, or the first digits of a commit that was a champion",
            hint="raft ledger shows them; a model that never was one is promoted",
        )
    holder = holder_of(matching[0])
    if (gone := withdrawal(entries, holder.commit, holder.policy)) is not None:
        raise GateStop(
            f"{holder.run}@{holder.iteration} was {gone.kind} by entry {gone.number}", hint="name another one"
        )
    return holder


def weights(run: Run, iteration: int, place: Place) -> Policy:
    """A committed policy whose bytes are here, and checked. Raises StepError or IntegrityError."""
    fetch_weights(run, iteration, place.workspace)
    return committed_policy(run, iteration, initial_policy(run))


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_VERSION_DIGITS


def _commit_of_version(model: str, version: str, place: Place) -> str:
    from tasks.tracking.registry import origin

    found = origin(model, version, None, place.tracking_uri)
    if found is None:
        raise InputError(f"{model} has no version {version}", hint="raft ledger shows the champions by commit")
    return found.commit
