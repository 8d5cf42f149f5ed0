"""Whether a model, or one that it was trained from, was withdrawn."""

from collections.abc import Sequence

from raft_core.audit.lineage import Ancestor, ancestors, policy_facts
from raft_core.promotion.ledger import Entry, withdrawal
from raft_core.records.run import Run, read_commit


def find_withdrawal(entries: Sequence[Entry], run: Run, iteration: int) -> tuple[Entry, str] | None:
    """The entry that withdrew a committed policy or one that it was trained from, also before it was made; in words.

    Raises IntegrityError where the chain of commits does not hold.
    """
    commit = read_commit(run, iteration)
    if commit is None:
        return None
    itself = Ancestor(commit.digest, policy_facts(commit.content).identity)
    for each in (itself, *ancestors(run, iteration)):
        if (gone := withdrawal(entries, each.commit, each.policy)) is not None:
            named = f"{run.name}@{iteration}"
            if each is not itself:
                named += f" was trained from {gone.body['run']}@{gone.body['iteration']}, which"
            return gone, f"{named} was {gone.kind} by entry {gone.number}"
    return None
