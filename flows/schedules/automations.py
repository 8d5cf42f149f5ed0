"""Prefect automations that ``raft deploy`` keeps up to date: a silent run is taken up, and people are told.

Each has a fixed name and is replaced, so that deploying twice changes nothing. They belong to the server, not to
one deployment: a call that does not name a webhook leaves the one that is there.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import AutomationSort
from prefect.events.actions import CallWebhook, ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from flows.announce import AUDIT_FAILED, AWAITING, ENDED, FAILED, PROMOTED, STOPPED

HEARTBEAT_S = 30
"""Prefect's shortest. A run that was not heard of for ``SILENCE_S`` is taken for dead."""
SILENCE_S = 180
START_S = 900
"""A run that a worker submitted, and that was not heard of for so long, is taken for one that died while it started.
Longer than a silence: a container's image may have to be fetched first."""
SILENT = "no heartbeat for"
HEARTBEAT, CRASHED, SUBMITTED, CANCELLED = (
    f"prefect.flow-run.{state}" for state in ("heartbeat", "Crashed", "Submitting", "Cancelled")
)
BLOCK = "raft-notifications"
PREFIX = "raft: "

TELL = {
    "failed": (FAILED,),
    "stopped by a gate": (STOPPED,),
    "awaiting approval": (AWAITING,),
    "promoted": (PROMOTED,),
    "audit failed": (AUDIT_FAILED,),
}
"""What people are told of → the events that say it."""

MESSAGE = """{"about": "%s", "event": {{ event.event | tojson }}, "name": {{ event.resource.name | tojson }},
 "time": {{ event.occurred | string | tojson }}, "facts": {{ event.payload | tojson }}}"""
"""Body of a call: JSON, filled in by Prefect."""


def healing(flows: Sequence[str]) -> list[AutomationCore]:
    """A run that fell silent, crashed or never started is started again, in the same run directory.

    If it lives after all (the server was away), the second process waits for the first one's lease. Three ways to
    notice, because one word may be lost on the way, and a process may die before its first heartbeat.
    """
    return [
        _revival("a silent run goes on", flows, HEARTBEAT, SILENCE_S),
        _revival("a crashed run goes on", flows, CRASHED, SILENCE_S),
        _revival("a run that did not start is started again", flows, SUBMITTED, START_S),
    ]


def _revival(name: str, flows: Sequence[str], after: str, within_s: float) -> AutomationCore:
    """Where neither a heartbeat nor an end is told within ``within_s`` of the event ``after``, start the run again."""
    trigger = EventTrigger(
        match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*"}),
        match_related=ResourceSpecification.model_validate(
            {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
        ),
        for_each={"prefect.resource.id"}, posture=Posture.Proactive, threshold=1, within=timedelta(seconds=within_s),
        after={after}, expect={HEARTBEAT, ENDED, CANCELLED},
    )  # fmt: skip
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED, name="AwaitingRetry", message=f"{SILENT} {within_s:g} s: goes on elsewhere"
    )
    return AutomationCore(name=f"{PREFIX}{name}", trigger=trigger, actions=[again])


def notifications(block: UUID) -> list[AutomationCore]:
    """One call of the webhook ``block`` for everything in ``TELL``."""
    made = []
    for about, events in TELL.items():
        trigger = EventTrigger(
            for_each={"prefect.resource.id"},
            expect=set(events), posture=Posture.Reactive, threshold=1, within=timedelta(0),
        )  # fmt: skip
        call = CallWebhook(block_document_id=block, payload=MESSAGE % about)
        made.append(AutomationCore(name=f"{PREFIX}{about}", trigger=trigger, actions=[call]))
    return made


def webhook_block(url: str) -> UUID:
    """Keep the address in a block of Prefect's server, where it is stored encrypted; returns the block's id."""
    return Webhook(url=url, method="POST", headers={"Content-Type": "application/json"}).save(BLOCK, overwrite=True)  # type: ignore[return-value]


def keep_automations(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> None:
    """Create the ``wanted`` automations, or replace those of their names; others are left alone."""
    there = _automations(client)
    for automation in wanted:
        if automation.name in there:
            client.update_automation(there[automation.name], automation)
        else:
            client.create_automation(automation)


def remove_notifications(client: SyncPrefectClient) -> None:
    """Nobody is told any more, of whatever deployment; the address goes too."""
    there = _automations(client)
    for name in there.keys() & {f"{PREFIX}{about}" for about in TELL}:
        client.delete_automation(there[name])
    with suppress(ValueError):  # Prefect's word for "no such block"
        Webhook.delete(BLOCK)


def _automations(client: SyncPrefectClient) -> dict[str, UUID]:
    found = client.read_automations(limit=200, sort=AutomationSort.NAME_ASC)
    return {automation.name: automation.id for automation in found}
