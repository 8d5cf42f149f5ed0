"""Deployments on a Prefect server: alignment, promotion check, audit and gc, each with its own schedule.

``apply`` is idempotent: deploying again replaces schedules, parameters and limits, and removes deployments of this
configuration that are no longer requested. ``serve`` runs scheduled work on this machine; with a work pool, its workers
do.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

import psutil
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.schedules import Cron, Interval, Schedule
from prefect.settings import get_current_settings
from prefect.types.entrypoint import EntrypointType
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from flows.orchestration.automations import (
    HEARTBEAT_S,
    healing,
    keep_automations,
    notifications,
    remove_notifications,
    webhook_block,
)
from flows.orchestration.overlap import Overlap, limit_name
from flows.orchestration.scheduled import (
    RUN_NAME,
    go_on,
    scheduled_align,
    scheduled_audit,
    scheduled_gc,
    scheduled_name,
    scheduled_promotion,
)
from raft_core.config.loading import load_config
from raft_core.errors import ConfigError, RunBusyError, StepError
from raft_core.files.locks import try_exclusive
from raft_core.records.names import check_run_name, registered_name

FLOWS: dict[str, Flow[..., Any]] = {
    "align": scheduled_align,
    "audit": scheduled_audit,
    "gc": scheduled_gc,
    "promotion": scheduled_promotion,
}
HEALED = ("raft-align",)
"""Flows whose runs are restarted after a kill; the others run again at their next scheduled time."""


class Plan(BaseModel):
    """The options of ``raft deploy``. Without a schedule, runs are started by hand."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: str
    workspace: Path
    overrides: tuple[str, ...] = ()
    cron: str | None = None
    every_s: float | None = Field(None, ge=10)
    audit_cron: str | None = None
    gc_cron: str | None = None
    promotion_cron: str | None = None
    timezone: str = "UTC"
    overlap: Overlap = "queue"
    run_name: str = RUN_NAME
    new_seed: bool = False
    audit_share: float = Field(0.1, gt=0, le=1)
    pool: str | None = None
    image: str | None = None
    webhook: str | None = None
    """None: the webhook does not change, unless ``no_webhook`` removes it."""
    no_webhook: bool = False

    @field_validator("cron", "audit_cron", "gc_cron", "promotion_cron")
    @classmethod
    def _is_cron(cls, cron: str | None) -> str | None:
        if cron is not None:
            Cron(cron)
        return cron

    @field_validator("timezone")
    @classmethod
    def _is_timezone(cls, timezone: str) -> str:
        if timezone not in available_timezones():
            raise ValueError(f"unknown time zone {timezone!r}; use a name such as Europe/Zurich or UTC")
        return timezone


def plan(**asked: Any) -> Plan:
    """Check the options. Raises ConfigError with every fault, including those of the configuration file."""
    try:
        found = Plan.model_validate(asked)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        )
        raise ConfigError(
            "invalid options of raft deploy", got=faults, hint="correct them as raft deploy --help describes"
        ) from None
    if found.image and not found.pool:
        raise ConfigError(
            "--image needs a work pool",
            got=f"--image {found.image} without --pool",
            hint="add --pool NAME, of type docker or kubernetes",
        )
    if found.webhook and found.no_webhook:
        raise ConfigError("--webhook and --no-webhook exclude each other", hint="use one of them")
    config = load_config(found.workspace / found.config, found.overrides)
    check_run_name(scheduled_name(found.run_name, config, datetime.now(UTC)))
    return found


def deployments(asked: Plan, environment: dict[str, str]) -> list[RunnerDeployment]:
    """The deployments for ``asked``; ``environment``: of the jobs that a worker starts."""
    config = load_config(asked.workspace / asked.config, asked.overrides)
    workspace = str(asked.workspace)
    align = {
        "config": asked.config,
        "workspace": workspace,
        "overrides": list(asked.overrides),
        "run_name": asked.run_name,
        "new_seed": asked.new_seed,
        "overlap": asked.overlap,
    }
    audit = {"workspace": workspace, "share": asked.audit_share}
    made: list[tuple[str, dict[str, Any], list[Schedule]]] = []
    made += [("align", align, _schedules(asked, asked.cron, asked.every_s))]
    made += [("audit", audit, _schedules(asked, asked.audit_cron))] if asked.audit_cron else []
    made += [("gc", {"workspace": workspace}, _schedules(asked, asked.gc_cron))] if asked.gc_cron else []
    promotion: dict[str, Any] = {"workspace": workspace, "candidate": registered_name(config)}
    made += [("promotion", promotion, _schedules(asked, asked.promotion_cron))] if asked.promotion_cron else []
    jobs = {"env": {**environment, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S)}} if asked.pool else None
    return [
        FLOWS[kind].to_deployment(  # type: ignore[misc]
            config.name,
            schedules=schedules,
            parameters=parameters,
            tags=["raft"],
            entrypoint_type=EntrypointType.MODULE_PATH,
            work_pool_name=asked.pool,
            job_variables=jobs,
            description=FLOWS[kind].description,
        )
        for kind, parameters, schedules in made
    ]


def _schedules(asked: Plan, cron: str | None, every_s: float | None = None) -> list[Schedule]:
    found = [Cron(cron, timezone=asked.timezone)] if cron else []
    return found + ([Interval(timedelta(seconds=every_s), timezone=asked.timezone)] if every_s else [])


def apply(asked: Plan, environment: dict[str, str], say: Callable[[str], object]) -> list[str]:
    """Create, update and remove deployments as ``asked``, and ``say`` what changed; returns their names.

    Raises ConfigError if there is no server or no such work pool, or if a deployment of that name belongs to another
    workspace.
    """
    wanted = deployments(asked, environment)
    config = load_config(asked.workspace / asked.config, asked.overrides)
    names = [deployment.full_name for deployment in wanted]
    with _server() as client:
        if asked.pool:
            _check_pool(client, asked.pool)
        there = _deployed(client, config.name)
        _check_workspace(there, asked.workspace)
        client.upsert_global_concurrency_limit_by_name(limit_name(registered_name(config)), 1)
        keep_automations(client, healing(HEALED))
        if asked.webhook:
            keep_automations(client, notifications(webhook_block(asked.webhook)))
        if asked.no_webhook:
            remove_notifications(client)
        for deployment in wanted:
            deployment.apply(image=asked.image)
            say(f"deployed {deployment.full_name}")
        for name in there.keys() - set(names):
            client.delete_deployment(there[name].id)
            say(f"removed {name}, which no longer has a schedule")
    return names


def _deployed(client: SyncPrefectClient, name: str) -> dict[str, DeploymentResponse]:
    """The server's deployments of a configuration, by full name."""
    found = {}
    for flow in FLOWS.values():
        with suppress(ObjectNotFound):
            found[f"{flow.name}/{name}"] = client.read_deployment_by_name(f"{flow.name}/{name}")
    return found


def _check_workspace(there: Mapping[str, DeploymentResponse], workspace: Path) -> None:
    """Refuse a second workspace with a configuration of the same name: a server has one deployment per name."""
    others = {name: found.parameters.get("workspace") for name, found in there.items()}
    others = {name: other for name, other in others.items() if other != str(workspace)}
    if others:
        raise ConfigError(
            f"{', '.join(others)} was deployed on this server from another workspace",
            got=str(workspace),
            expected=", ".join(sorted(map(str, set(others.values())))),
            hint="give the configuration another name; if the workspace was moved, run "
            + "; ".join(f"prefect deployment delete {name}" for name in others),
        )


def serve(asked: Plan, environment: dict[str, str], say: Callable[[str], object]) -> None:
    """Run scheduled work on this machine until interrupted; first restart runs that a killed process left behind.

    Schedules stay active when it ends (Prefect's own ``serve`` would pause them): of the runs that come due meanwhile,
    the newest one runs at the next start. Raises RunBusyError if another process serves this configuration.
    """
    with _alone(asked.workspace, load_config(asked.workspace / asked.config, asked.overrides).name):
        names = apply(asked, environment, say)
        with _server() as client:
            take_up(client, names)
        runner = Runner(name="raft", pause_on_shutdown=False, heartbeat_seconds=HEARTBEAT_S, limit=None)
        for deployment in deployments(asked, environment):
            runner.add_deployment(deployment)
        asyncio.run(runner.start())


def take_up(client: SyncPrefectClient, names: Sequence[str]) -> list[str]:
    """Restart runs of these deployments that Prefect lists as running although no process works on them.

    Only for one machine, where all processes can be seen. Returns the names of the flow runs.
    """
    ours = [client.read_deployment_by_name(name).id for name in names]
    active = FlowRunFilter(
        deployment_id=FlowRunFilterDeploymentId(any_=ours),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])),
    )
    alive = _flow_runs_of_processes()
    dead = [
        run
        for run in client.read_flow_runs(flow_run_filter=active, sort=FlowRunSort.ID_DESC, limit=200)
        if str(run.id) not in alive
    ]
    for run in dead:
        go_on(client, run, "its process died")
    return [run.name for run in dead]


def _flow_runs_of_processes() -> set[str]:
    """Flow runs that processes of this user on this machine work on: Prefect names them in the environment."""
    found = set()
    for process in psutil.process_iter():
        try:
            found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except (psutil.Error, OSError):
            continue
    return found


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    if not get_current_settings().api.url:
        raise ConfigError(
            "schedules need a permanent Prefect server",
            got="PREFECT_API_URL is not set",
            hint="run prefect server start, then export PREFECT_API_URL=http://127.0.0.1:4200/api",
        )
    with get_client(sync_client=True) as client:
        if error := client.api_healthcheck():
            raise StepError(
                f"cannot reach the Prefect server at {client.api_url}",
                got=error,
                hint="start the server, or correct PREFECT_API_URL",
            )
        yield client


def _check_pool(client: SyncPrefectClient, pool: str) -> None:
    try:
        client.read_work_pool(pool)
    except ObjectNotFound:
        raise ConfigError(
            f"the Prefect server has no work pool {pool!r}",
            hint=f"prefect work-pool create {pool} --type process (or docker, kubernetes)",
        ) from None


@contextmanager
def _alone(workspace: Path, name: str) -> Iterator[None]:
    with try_exclusive(workspace / f".serve-{name}.lock") as alone:
        if not alone:
            raise RunBusyError(f"another process serves {name} in {workspace} already", hint="stop that process first")
        yield
