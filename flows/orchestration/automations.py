"""Prefect automations that ``raft deploy`` keeps up to date: restart runs that died, and call a webhook.

Each has a fixed name and is replaced, so that deploying twice changes nothing. They belong to the server, not to one
deployment: ``raft deploy`` without a webhook keeps the one that is there.
"""

from collections.abc import Mapping, Sequence
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

from flows.orchestration.events import AUDIT_FAILED, AWAITING, ENDED, FAILED, PROMOTED, STOPPED

HEARTBEAT_S = 30
"""The shortest that Prefect allows. A run without a heartbeat for ``SILENCE_S`` counts as dead."""
SILENCE_S = 180
CRASH_S = SILENCE_S + 120
"""Delay before a crashed run is restarted, unless the first automation has done it."""
START_S = 1800
"""A run that a worker submitted counts as dead if it does not start within this time.
Longer than the quarter of an hour for which Prefect may hold events back."""
MAX_STARTS = 10
"""A run is started at most this often: after that it would be killed again."""
SILENT = "no heartbeat for"
HEARTBEAT, CRASHED, SUBMITTED, RUNNING, CANCELLED, FAILED_STATE = (
    f"prefect.flow-run.{state}" for state in ("heartbeat", "Crashed", "Submitting", "Running", "Cancelled", "Failed")
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
"""Subject of a notification → the events that trigger it."""

MESSAGE = """{"about": "%s", "event": {{ event.event | tojson }}, "name": {{ event.resource.name | tojson }},
 "time": {{ event.occurred | string | tojson }}, "facts": {{ event.payload | tojson }}}"""
"""Body of the webhook call: JSON, filled in by Prefect."""


def healing(flows: Sequence[str]) -> list[AutomationCore]:
    """Restart runs that fell silent, crashed or never started, in the same run directory.

    If the first process is still alive (the server could not be reached), the second one waits for its lease. There are
    three triggers, because events may be lost, and a process may die before its first heartbeat. A run that crashed
    before it ever ran (no image, no such module) is not restarted: it would crash again.
    """
    # The names are keys on the server: a renamed automation would stay there beside the new one.
    starts = [str(number) for number in range(1, MAX_STARTS + 1)]
    return [
        _revival("a silent run goes on", flows, HEARTBEAT, {HEARTBEAT, ENDED, CANCELLED}, SILENCE_S),
        _revival("a crashed run goes on", flows, CRASHED, {RUNNING, CANCELLED}, CRASH_S, {"prefect.run-count": starts}),
        _revival(
            "a run that did not start is started again",
            flows,
            SUBMITTED,
            {HEARTBEAT, ENDED, RUNNING, CRASHED, CANCELLED, FAILED_STATE},
            START_S,
        ),
    ]


def _revival(
    name: str,
    flows: Sequence[str],
    after: str,
    expect: set[str],
    within_s: float,
    about: Mapping[str, Sequence[str]] | None = None,
) -> AutomationCore:
    """Start the run again if no event of ``expect`` follows within ``within_s`` after the event ``after``.

    ``about``: labels of the events that count.
    """
    trigger = EventTrigger(
        match=ResourceSpecification.model_validate({"prefect.resource.id": "prefect.flow-run.*", **(about or {})}),
        match_related=ResourceSpecification.model_validate(
            {"prefect.resource.role": "flow", "prefect.resource.name": list(flows)}
        ),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=within_s),
        after={after},
        expect=expect,
    )
    again = ChangeFlowRunState(
        state=StateType.SCHEDULED, name="AwaitingRetry", message=f"{SILENT} {within_s:g} s: started again"
    )
    return AutomationCore(name=f"{PREFIX}{name}", trigger=trigger, actions=[again])


def notifications(block: UUID) -> list[AutomationCore]:
    """Automations that call the webhook ``block`` for every subject in ``TELL``."""
    made = []
    for about, events in TELL.items():
        trigger = EventTrigger(
            for_each={"prefect.resource.id"},
            expect=set(events),
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        )
        call = CallWebhook(block_document_id=block, payload=MESSAGE % about)
        made.append(AutomationCore(name=f"{PREFIX}{about}", trigger=trigger, actions=[call]))
    return made


def webhook_block(url: str) -> UUID:
    """Store the address in a block of Prefect's server, which encrypts it; returns the block's id."""
    return Webhook(url=url, method="POST", headers={"Content-Type": "application/json"}).save(BLOCK, overwrite=True)  # type: ignore[return-value]


def keep_automations(client: SyncPrefectClient, wanted: Sequence[AutomationCore]) -> None:
    """Create the ``wanted`` automations, or replace those with the same names; others do not change."""
    there = _automations(client)
    for automation in wanted:
        if automation.name in there:
            client.update_automation(there[automation.name], automation)
        else:
            client.create_automation(automation)


def remove_notifications(client: SyncPrefectClient) -> None:
    """Remove the notification webhook and its automations, for all deployments of the server."""
    there = _automations(client)
    for name in there.keys() & {f"{PREFIX}{about}" for about in TELL}:
        client.delete_automation(there[name])
    with suppress(ValueError):  # raised if there is no such block
        Webhook.delete(BLOCK)


def _automations(client: SyncPrefectClient) -> dict[str, UUID]:
    found = client.read_automations(limit=200, sort=AutomationSort.NAME_ASC)
    return {automation.name: automation.id for automation in found}
