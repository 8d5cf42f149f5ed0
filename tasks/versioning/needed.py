"""Who still needs the weights of a commit: the registry, and the ledger of promotions."""

from raft_core.promotion.ledger import check_chain, current
from raft_core.promotion.requests import open_requests
from tasks.promotion.ledger import open_ledger
from tasks.tracking.registered import versions


def needed_commits(tracking_uri: str, ledger_uri: str) -> dict[str, str]:
    """Commit digest → why its weights must stay.

    Raises StepError while the registry or the ledger cannot be asked, IntegrityError for a ledger that does not hold.
    """
    needed = {v.origin.commit: f"registered as {v.name} version {v.version}" for v in reversed(versions(tracking_uri))}
    entries = open_ledger(ledger_uri).entries()
    check_chain(entries, ledger_uri)
    waiting = open_requests(entries)
    for model in sorted({entry.model for entry in entries}):
        standing = current(entries, model)
        champion = standing.champion.commit if standing.champion else None
        for request in waiting:
            if request.model == model and request.body["champion"] == champion:  # else nobody can approve it
                needed[request.body["commit"]] = f"waits for approval as {model}"
        for title, holder in (("previous", standing.previous), ("champion", standing.champion)):
            if holder is not None:
                needed[holder.commit] = f"{title} of {model}"
    return needed
