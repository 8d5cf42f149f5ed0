"""What the rest of the world may want to hear: Prefect events that ``flows.orchestration.automations`` act on.

They are our own, and not Prefect's events of a flow run's states, since Prefect's server holds those of a
scheduled run back for a quarter of an hour: each follows the one before it, and the first was never sent.

| event | when |
|---|---|
| ``raft.run.stopped`` | a gate or a validation stopped an alignment; its best policy is kept |
| ``raft.run.finished`` | an alignment ended with all its iterations, or converged |
| ``raft.run.failed`` | a scheduled alignment, promotion check, audit or retention could not do its work |
| ``raft.flow-run.ended`` | about the flow run itself: no heartbeat is to be expected any more |
| ``raft.promotion.awaiting`` | a promotion waits for a person |
| ``raft.promotion.promoted`` | a model has a new champion |
| ``raft.audit.failed`` | an audit found bytes that are not what the records say |
"""

from collections.abc import Mapping
from typing import Any

from prefect.events import emit_event
from prefect.settings import get_current_settings

STOPPED, FINISHED, FAILED = "raft.run.stopped", "raft.run.finished", "raft.run.failed"
ENDED = "raft.flow-run.ended"
AWAITING, PROMOTED = "raft.promotion.awaiting", "raft.promotion.promoted"
AUDIT_FAILED = "raft.audit.failed"


def announce(event: str, subject: str, name: str, **facts: Any) -> None:
    """Send ``event`` about ``subject`` (run or model) called ``name``; ``facts`` are its payload.

    Nothing happens where no server lives on: what counts is in the records.
    """
    send(event, f"raft.{subject}.{name}", name, facts)


def send(event: str, resource: str, name: str, facts: Mapping[str, Any]) -> None:
    """Send ``event`` about a resource by its identity."""
    if get_current_settings().api.url:
        emit_event(
            event,
            resource={"prefect.resource.id": resource, "prefect.resource.name": name},
            payload={"name": name, **facts},
        )
