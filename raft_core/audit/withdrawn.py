"""Whether a policy, or one that it was trained from, was withdrawn."""

from collections.abc import Sequence

from raft_core.audit.lineage import Ancestor, ancestors
from raft_core.promotion.ledger import Entry, withdrawal
from raft_core.records.policy_ref import PolicyRef, policy_name


def find_withdrawal(entries: Sequence[Entry], ref: PolicyRef) -> tuple[Entry, str] | None:
    """The ledger entry that withdrew ``ref`` or a policy that it was trained from, and a sentence that says so.

    The entry may be older than ``ref``. Raises IntegrityError where the chain of commits does not hold.
    """
    itself = Ancestor(ref.digest, ref.identity)
    for each in (itself, *ancestors(ref.run, ref.iteration)):
        if (entry := withdrawal(entries, each.commit, each.policy)) is not None:
            subject = str(ref)
            if each is not itself:
                subject += f" was trained from {policy_name(entry.body['run'], entry.body['iteration'])}, which"
            return entry, f"{subject} was {entry.kind} by entry {entry.number}"
    return None
