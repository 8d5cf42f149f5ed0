"""Return to an earlier champion: in seconds, recorded in the ledger, and nothing is deleted."""

from collections.abc import Sequence

from flows.promotion.promote import (
    Outcome,
    Place,
    append,
    ask_witnesses,
    check_champion,
    find_named,
    settle,
    settle_again,
    weights_kept,
)
from flows.text import person, words
from raft_core.errors import ConfigError, GateStop, InputError
from raft_core.promotion.ledger import Entry, NamedPolicy, current, named_policy, withdrawal
from raft_core.promotion.rules import PromotionRules
from raft_core.records.policy_ref import PolicyRef
from raft_core.types import Policy
from tasks.loop.prepare import committed_policy, initial_policy
from tasks.promotion.verified import fetch_weights

MAX_VERSION_DIGITS = 6
"""A longer number is read as the first digits of a digest."""


def roll_back(model: str | None, to: str, by: str, reason: str, place: Place, rules: PromotionRules | None) -> Outcome:
    """Make an earlier champion the champion again, once its weights are on this machine and verified.

    ``to``: previous, the first digits of a commit, or a version number of MLflow. Only an earlier champion can be
    returned to, so no gate is bypassed. Raises GateStop for a model that was withdrawn.
    """
    by, reason = person(by), words(reason)
    ledger = place.ledger
    entries = ledger.entries()
    name = the_model(entries, model)
    champion = current(entries, name).champion
    target = find_champion(entries, name, to, place)
    ref = find_named(target, place.workspace)
    ask_witnesses(place, ref)
    if champion is not None and target.commit == champion.commit:
        settle_again(place, ref.run, entries, champion, rules)
        return Outcome("unchanged", f"{ref} is already the champion of {name}")
    with weights_kept(place):
        ref = find_named(target, place.workspace)
        weights(ref, place)
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
            check_champion(last, name, champion, ref)

        entry = append(ledger, "rolled_back", name, body, check)
    settle(place, ref.run, entry, rules)
    return Outcome("rolled_back", f"{ref} is the champion of {name} again (entry {entry.number})", entry)


def the_model(entries: Sequence[Entry], model: str | None) -> str:
    """``model``, or the only model that ever had a champion. Raises ConfigError."""
    models = sorted({e.model for e in entries if e.kind in ("promoted", "rolled_back")})
    if model is None and len(models) == 1:
        return models[0]
    if model in models:
        return str(model)
    raise ConfigError(
        "the ledger names no champion of any model"
        if not models
        else "several models have had a champion"
        if model is None
        else f"model {model} never had a champion",
        got=model,
        expected=f"one of {', '.join(models)}" if models else None,
        hint="promote a model first: raft promote RUN" if not models else "name the model: --model NAME",
    )


def find_champion(entries: Sequence[Entry], model: str, which: str, place: Place) -> NamedPolicy:
    """A present or earlier champion of ``model``.

    ``which``: champion, previous, a version number of MLflow, or the first digits of a commit. Raises InputError
    where there is none, GateStop for one that was withdrawn.
    """
    champions = current(entries, model)
    if which in ("champion", "previous"):
        found = champions.champion if which == "champion" else champions.previous
        if found is None:
            raise InputError(
                f"model {model} has no {'champion' if which == 'champion' else 'previous champion'}",
                hint=f"raft ledger lists every champion that {model} has had",
            )
        return found
    commit = _commit_of_version(model, which, place) if _is_version(which) else which
    held = {e.body["commit"]: e for e in entries if e.model == model and e.kind in ("promoted", "rolled_back")}
    matching = [entry for digest, entry in held.items() if digest.startswith(commit)]
    if len(matching) != 1 or not commit:
        raise InputError(
            f"{'no champion' if not matching else 'more than one champion'} of {model} matches {which!r}",
            expected="previous, a version number, or the first digits of a commit that was a champion",
            hint=f"raft ledger lists the champions of {model}; a model that never was one needs raft promote",
        )
    named = named_policy(matching[0])
    if (entry := withdrawal(entries, named.commit, named.policy)) is not None:
        raise GateStop(
            f"{named} was {entry.kind} by entry {entry.number} of the ledger",
            got=entry.body.get("reason"),
            hint=f"name another earlier champion; raft ledger lists those of {model}",
        )
    return named


def weights(ref: PolicyRef, place: Place) -> Policy:
    """The weights of ``ref``, restored if need be and verified. Raises StepError or IntegrityError."""
    fetch_weights(ref, place.workspace)
    return committed_policy(ref.run, ref.iteration, initial_policy(ref.run))


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_VERSION_DIGITS


def _commit_of_version(model: str, version: str, place: Place) -> str:
    from tasks.tracking.registry import origin

    found = origin(model, version, None, place.tracking_uri)
    if found is None:
        raise InputError(
            f"MLflow has no version {version} of model {model}",
            hint="raft ledger lists the champions by commit; pass the first digits of one",
        )
    return found.commit
