"""A promotion that a clock asks for, night after night: a question that the ledger has answered is not put again."""

from flows.promotion.promote import Outcome, Place, Question, name_candidate, now, promote_model
from raft_core.promotion_policy import load_policy, policy_digest
from raft_core.records.ledger import Entry, withdrawal
from raft_core.records.lineage import policy_facts
from raft_core.records.requests import answer
from tasks.contender import committed
from tasks.register import model_name


def ask_once(question: Question, place: Place) -> Outcome:
    """``promote_model``, or nothing ("unchanged") where the ledger has the answer: a person may ask all the same.

    Raises what ``promote_model`` raises.
    """
    run, iteration = name_candidate(question, place)
    rules = policy_digest(*load_policy(question.policy_file))
    entries, commit = place.ledger.entries(), committed(run, iteration)
    gone = withdrawal(entries, commit.digest, policy_facts(commit.content).identity)
    said = gone or answer(entries, model_name(run), commit.digest, rules, now())
    if said is None:
        return promote_model(question, place)
    return Outcome("unchanged", f"{run.name}@{iteration} {_told(said)}", said)


def _told(said: Entry) -> str:
    if said.kind in ("withdrawn", "erased"):
        return f"was {said.kind} by entry {said.number}: promote another model"
    if said.kind == "requested":
        told = f"waits for an approval already (raft approve {said.number})"
    elif said.kind in ("refused", "rejected"):
        told = f"was {said.kind} by entry {said.number}, and neither rules nor champion have changed"
    else:
        told = f"was the champion by entry {said.number}, and was replaced"
    return f"{told}: raft promote asks all the same"
