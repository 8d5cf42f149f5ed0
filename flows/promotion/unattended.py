"""A promotion that a clock asks for, night after night: a question that the ledger has answered is not put again."""

from flows.promotion.promote import Outcome, Place, Question, name_candidate, now, promote_model
from raft_core.audit.descent import find_withdrawal
from raft_core.promotion.ledger import Entry
from raft_core.promotion.requests import answer
from raft_core.promotion.rules import load_policy, policy_digest
from tasks.promotion.policy_ref import committed
from tasks.tracking.registry import model_name


def ask_once(question: Question, place: Place) -> Outcome:
    """``promote_model``, or nothing ("unchanged") where the ledger has the answer: a person may ask all the same.

    Raises what ``promote_model`` raises.
    """
    run, iteration = name_candidate(question, place)
    rules = policy_digest(*load_policy(question.policy_file))
    entries = place.ledger.entries()
    if (found := find_withdrawal(entries, run, iteration)) is not None:
        return Outcome("unchanged", found[1], found[0])
    said = answer(entries, model_name(run), committed(run, iteration).digest, rules, now())
    if said is None:
        return promote_model(question, place)
    return Outcome("unchanged", f"{run.name}@{iteration} {_told(said)}: raft promote asks all the same", said)


def _told(said: Entry) -> str:
    if said.kind == "requested":
        return f"waits for an approval already (raft approve {said.number})"
    if said.kind in ("refused", "rejected"):
        return f"was {said.kind} by entry {said.number}, and neither rules nor champion have changed"
    return f"was the champion by entry {said.number}, and was replaced"
