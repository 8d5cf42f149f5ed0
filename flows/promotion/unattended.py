"""A scheduled promotion: a candidate that the ledger has already decided on is not measured again."""

from flows.promotion.promote import Outcome, Place, Question, name_candidate, now, promote_model
from raft_core.audit.withdrawn import find_withdrawal
from raft_core.promotion.ledger import Entry
from raft_core.promotion.requests import answer
from raft_core.promotion.rules import load_rules, rules_digest
from tasks.tracking.registry import model_name


def ask_once(question: Question, place: Place) -> Outcome:
    """``promote_model``, unless the ledger already has the answer: then nothing is done ("unchanged").

    A person can still ask with ``raft promote``. Raises what ``promote_model`` raises.
    """
    ref = name_candidate(question, place)
    rules = rules_digest(*load_rules(question.rules_file))
    entries = place.ledger.entries()
    if (found := find_withdrawal(entries, ref)) is not None:
        return Outcome("unchanged", found[1], found[0])
    answered = answer(entries, model_name(ref.run), ref.digest, rules, now())
    if answered is None:
        return promote_model(question, place)
    return Outcome("unchanged", f"{ref} {_why(answered)}; raft promote {ref} measures it again", answered)


def _why(answered: Entry) -> str:
    if answered.kind == "requested":
        return f"already waits for approval (raft approve {answered.number})"
    if answered.kind in ("refused", "rejected"):
        return f"was {answered.kind} by entry {answered.number}, and neither rules nor champion have changed since"
    return f"was already champion by entry {answered.number} and was replaced"
