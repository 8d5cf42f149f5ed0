"""At most one alignment of a model at a time, and only one run after a downtime instead of all missed ones.

Both rules are applied when a scheduled run starts:

- a run is *superseded* if its schedule has come due again: of the runs that are late after a downtime or a long
  predecessor, only the newest works;
- a model name has one slot, a strict global concurrency limit of Prefect's server. Its lease is renewed while the owner
  lives and expires a minute after its death. If the limit does not exist, no run starts.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Literal

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency

from raft_core.errors import RunBusyError, StepError

Overlap = Literal["queue", "refuse"]
LEASE_S = 60.0
"""Time until the slot of a killed run is free."""
REFUSE_AFTER_S = 5.0
LOOK_AGAIN_S = 60.0
COUNTS = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED]
"""States in which a newer run replaces an older one: not cancelled, failed or crashed."""


class Superseded(Exception):
    """A newer scheduled run replaces this one."""


def limit_name(model: str) -> str:
    """The name of a registered model's global concurrency limit."""
    return f"raft-model-{model}"


def is_superseded(this: FlowRun, now: datetime | None = None) -> bool:
    """Whether a later run of the same schedule is due already. False for runs that were started by hand."""
    if this.deployment_id is None or this.expected_start_time is None or not this.auto_scheduled:
        return False
    newer = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=[this.deployment_id]),
        expected_start_time=FlowRunFilterExpectedStartTime(
            after_=this.expected_start_time, before_=now or datetime.now(UTC)
        ),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=COUNTS)),
    )
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=newer, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200)
    return any(run.auto_scheduled and run.expected_start_time > this.expected_start_time for run in found)  # type: ignore[operator]


@contextmanager
def model_slot(model: str, this: FlowRun, overlap: Overlap, *, begun: bool) -> Iterator[None]:
    """Hold the slot of ``model`` inside the block.

    ``queue`` waits for the slot, ``refuse`` does not. A run that has ``begun`` and was killed always waits: it may
    itself hold the slot until the lease expires.

    Raises RunBusyError if the slot is taken (``refuse``), Superseded if a newer run came due meanwhile, StepError if
    the limit does not exist.
    """
    waits = begun or overlap == "queue"
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(
                    concurrency(
                        limit_name(model),
                        strict=True,
                        lease_duration=LEASE_S,
                        timeout_seconds=LOOK_AGAIN_S if waits else REFUSE_AFTER_S,
                        raise_on_lease_renewal_failure=False,  # an outage of the server must not end a training
                    )
                )
                break
            except TimeoutError:
                if not waits:
                    raise RunBusyError(
                        f"another alignment of {model} is running", hint="wait for it, or deploy with --overlap queue"
                    ) from None
                if not begun and is_superseded(this):
                    raise Superseded from None
            except ConcurrencySlotAcquisitionError as error:
                raise StepError(
                    f"cannot take the concurrency limit {limit_name(model)} on Prefect's server",
                    got=error,
                    hint="run raft deploy, which creates it; `prefect gcl ls` lists the existing ones",
                ) from error
        yield
