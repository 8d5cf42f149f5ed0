"""Prefect events that automations and webhooks react to (``flows.orchestration.automations``).

They are our own events instead of Prefect's state changes, because Prefect's server delays those of a scheduled run by
a quarter of an hour: each follows the previous one, and the first is never sent.

| event | when |
|---|---|
| ``raft.run.stopped`` | a gate or a validation stopped an alignment; its best policy is kept |
| ``raft.run.finished`` | an alignment ended with all its iterations, or converged |
| ``raft.run.failed`` | a scheduled alignment, promotion check, audit or gc failed |
| ``raft.flow-run.ended`` | about the flow run itself: it ended, so no more heartbeats follow |
| ``raft.promotion.awaiting`` | a promotion needs approval |
| ``raft.promotion.promoted`` | a model has a new champion |
| ``raft.audit.failed`` | an audit found bytes that do not match the records |
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

    Nothing happens without a permanent server: the records hold the same facts.
    """
    send(event, f"raft.{subject}.{name}", name, facts)


def send(event: str, resource: str, name: str, facts: Mapping[str, Any]) -> None:
    """Send ``event`` about the resource with this id."""
    if get_current_settings().api.url:
        emit_event(
            event,
            resource={"prefect.resource.id": resource, "prefect.resource.name": name},
            payload={"name": name, **facts},
        )
