"""At most one alignment of a model at a time, and no flood of missed ones after a downtime.

Two rules, both decided when a scheduled run begins, where everything is known:

- a run whose schedule has come due again since is *superseded*: of the runs that a downtime or a long
  predecessor left behind, the newest alone works;
- the slot of a model name is a strict global limit of Prefect's server. Its lease is renewed while the
  owner lives and expires a minute after its death; a missing limit lets nobody in.
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
"""How long the slot of a killed run stays taken."""
REFUSE_AFTER_S = 5.0
LOOK_AGAIN_S = 60.0
COUNTS = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.COMPLETED]
"""States in which a newer run does the work of an older one: not cancelled, failed or crashed."""


class Superseded(Exception):
    """A newer scheduled run does this one's work."""


def limit_name(model: str) -> str:
    """The global concurrency limit of a registered model's name."""
    return f"raft-model-{model}"


def is_superseded(this: FlowRun, now: datetime | None = None) -> bool:
    """Whether a later run of the same schedule is due already. Runs that a person started never are."""
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
    """Hold the slot of ``model``.

    ``queue`` waits for it, ``refuse`` does not. A run that has ``begun`` and was killed always waits: the
    slot may still be its own until the lease expires.

    Raises RunBusyError when refused, Superseded when a newer run came due meanwhile, StepError where the
    limit does not exist.
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
                        raise_on_lease_renewal_failure=False,  # a server that is away must not end a training
                    )
                )
                break
            except TimeoutError:
                if not waits:
                    raise RunBusyError(
                        f"another alignment of {model} is at work", hint="wait for it, or deploy with --overlap queue"
                    ) from None
                if not begun and is_superseded(this):
                    raise Superseded from None
            except ConcurrencySlotAcquisitionError as error:
                raise StepError(
                    f"the concurrency limit {limit_name(model)} cannot be taken",
                    got=error,
                    hint="raft deploy creates it; `prefect gcl ls` lists what there is",
                ) from error
        yield
