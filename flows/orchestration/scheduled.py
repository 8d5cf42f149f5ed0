"""The flows that deployments run: parameters of plain types, so that Prefect's form shows them.

Each is a thin shell around what the ``raft`` command does. A flow run that was killed and is started
again (by a person, an automation, or ``raft deploy --serve``) takes up the same run directory, since the
directory is named after the time for which the run was scheduled.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from prefect import Flow, flow, runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed, Failed
from pydantic import Field

from flows.orchestration.automations import MAX_STARTS, SILENT
from flows.orchestration.events import AUDIT_FAILED, ENDED, FAILED, FINISHED, STOPPED, announce, send
from flows.orchestration.overlap import Overlap, Superseded, is_superseded, model_slot
from flows.process.environment import guard_secrets, ledger_uri, tracking_uri
from flows.process.progress import Reporter
from flows.process.secrecy import without_secrets
from raft_core.config.loading import load_config
from raft_core.config.run import RaftConfig
from raft_core.errors import ConfigError, GateStop, RunBusyError, StepError
from raft_core.records.names import check_run_name, registered_name
from raft_core.types import content_id

BUSY_S = 15.0
ENDED_AFTER_S = (0.0, 1.0, 2.0)
"""On sqlite, Prefect's server drops an event that comes while it writes something else: the word of an end is said
thrice, so that no run that ended is taken for silent."""
RUN_NAME = "{config}-{date}-{time}"


class LogReporter(Reporter):
    """Says it in the log of the flow run."""

    def say(self, text: str) -> None:
        """See ``Reporter.say``."""
        get_run_logger().info(text)

    def warn(self, text: str) -> None:
        """See ``Reporter.warn``."""
        get_run_logger().warning(text)


def go_on(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    """Mark a flow run whose process was killed as crashed, and have it started again at once."""
    client.set_flow_run_state(run.id, Crashed(message=why))
    client.set_flow_run_state(run.id, AwaitingRetry(message=f"{why}: goes on where it was"))


def _killed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Prefect calls this where ``raft deploy --serve`` sees the process of a run die.

    A worker of a pool calls it too, but reports the crash once more afterwards, which would untry: there the
    automation for silent runs takes it up.
    """
    if flow_run.work_queue_id is not None:  # the name of the pool is not told here
        return
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, AwaitingRetry(message=f"{state.message}: goes on where it was"))


@flow(name="raft-align", on_crashed=[_killed])
def scheduled_align(
    config: str,
    workspace: str,
    overrides: Sequence[str] = (),
    run_name: str = RUN_NAME,
    new_seed: bool = False,
    overlap: Overlap = "queue",
) -> State[str]:
    """Align a model: start the run of this scheduled time, or go on with it.

    Args:
        config: a YAML file, absolute or below the workspace
        workspace: the folder that holds runs/, an absolute path on the worker
        overrides: KEY=VALUE, such as sampling.top_p=0.9
        run_name: {config}, {date} and {time} (UTC, for which the run was scheduled) are filled in
        new_seed: draw other prompts and samples than the run before
        overlap: when the same model is being aligned already: wait, or end at once
    """
    this = _this_run()
    folder = Path(workspace)
    when = this.expected_start_time or datetime.now(UTC)
    with _told(this), chdir(folder):
        if (ended := _ended(this)) is not None:
            return ended
        _check_starts(this)
        settled = _settle(Path(config), overrides, when if new_seed else None)
        name = check_run_name(scheduled_name(run_name, settled, when))
        begun = (folder / "runs" / name).exists()
        if begun:
            get_run_logger().info("takes up run %s (start %d)", name, this.run_count)
        try:
            if not begun and is_superseded(this):
                raise Superseded
            with model_slot(registered_name(settled), this, overlap, begun=begun):
                return _align_when_free(settled, name, folder, begun=begun)
        except Superseded:
            return Completed(name="Skipped", message="the schedule has come due again: the later run does its work")
        except RunBusyError as busy:
            return Cancelled(name="Refused", message=str(busy))


@flow(name="raft-audit")
def scheduled_audit(workspace: str, share: Annotated[float, Field(gt=0, le=1)] = 0.1) -> State[dict[str, int]]:
    """Check every chain, and re-hash the commits that were looked at longest ago.

    Args:
        workspace: the folder that holds runs/, an absolute path on the worker
        share: of the commits that one sweep re-hashes
    """
    from tasks.audit.sweep import sweep
    from tasks.promotion.ledger import open_ledger

    with _told(_this_run()):
        found = sweep(Path(workspace), share, open_ledger(ledger_uri(Path(workspace))))
        counts = {"runs": found.num_runs, "commits": found.num_commits, "rehashed": len(found.rehashed)}
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        if not found.problems:
            return Completed(message=f"all as recorded: {told}", data=counts)
        for problem in found.problems:
            get_run_logger().error("%s", problem)
        announce(AUDIT_FAILED, "workspace", Path(workspace).name, workspace=workspace, problems=found.problems[:20])
        return Failed(message=f"{len(found.problems)} problems; the first: {found.problems[0]}")


@flow(name="raft-promotion")
def scheduled_promotion(
    workspace: str, candidate: str, policy: str | None = None, by: str = "schedule", reason: str = ""
) -> State[str]:
    """Hold a candidate against the champion; promote it, or ask for approval, where the policy lets it.

    Nothing is written for a question that the ledger has answered: ``raft promote`` asks it again.

    Args:
        workspace: the folder that holds runs/, an absolute path on the worker
        candidate: RUN, RUN@N or MODEL (its newest candidate)
        policy: a file of promotion rules below the workspace; none: configs/promotion.yaml where it exists
        by: who asks, for the ledger
        reason: why, for the ledger
    """
    from flows.promotion.promote import Place, Question
    from flows.promotion.unattended import ask_once

    folder = Path(workspace)
    with _told(_this_run()), chdir(folder):
        place = Place(folder, tracking_uri(folder), ledger_uri(folder), LogReporter())
        file = folder / (policy or "configs/promotion.yaml")
        question = Question(candidate, by, reason, file if policy or file.exists() else None)
        outcome = ask_once(question, place)
        return Completed(name=outcome.status.capitalize(), message=outcome.message, data=outcome.status)


@flow(name="raft-gc")
def scheduled_gc(
    workspace: str, rules: Sequence[str] = (), policy: str | None = None, remove: bool = True
) -> State[int]:
    """Remove weights that nothing needs any more.

    Args:
        workspace: the folder that holds runs/, an absolute path on the worker
        rules: KEY=VALUE, such as keep_runs=5
        policy: a file of rules below the workspace; none: configs/retention.yaml where it exists
        remove: false only says what would go
    """
    from flows.gc import gc, rules_of

    folder = Path(workspace)
    with _told(_this_run()):
        retention = rules_of(folder, folder / policy if policy else None, rules)
        try:
            found = gc(folder, tracking_uri(folder), ledger_uri(folder), retention, remove=remove)
        except RunBusyError as busy:
            return Cancelled(name="Refused", message=str(busy))
        verb = "removed" if remove else "would remove"
        return Completed(message=f"{verb} {len(found.removable)} policies, {found.freed} bytes", data=found.freed)


def scheduled_name(template: str, config: RaftConfig, when: datetime) -> str:
    """The name of the run of one scheduled time. Raises ConfigError for a template with other fields."""
    utc = when.astimezone(UTC)
    try:
        return template.format(config=config.name, date=f"{utc:%Y%m%d}", time=f"{utc:%H%M%S}")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            "no template of a run's name", got=repr(template), expected=f"such as {RUN_NAME}", hint=f"mend it: {error}"
        ) from None


@contextmanager
def _told(this: FlowRun) -> Iterator[None]:
    """Say that the flow run ended, and if so that it failed. A kill says nothing: then heartbeats are missed."""
    guard_secrets()
    try:
        yield
    except Exception as error:
        announce(FAILED, "flow-run", this.name, flow=runtime.flow_run.flow_name, reason=without_secrets(str(error)))
        raise
    finally:
        for pause in ENDED_AFTER_S:
            time.sleep(pause)
            send(ENDED, f"prefect.flow-run.{this.id}", this.name, {})


def _settle(path: Path, overrides: Sequence[str], seed_of: datetime | None) -> RaftConfig:
    config = load_config(path, overrides)
    if seed_of is None:
        return config
    seed = int(content_id("scheduled", config.seed, seed_of.astimezone(UTC).isoformat())[:15], 16) % 2**31
    return config.model_copy(update={"seed": seed})


def _align_when_free(config: RaftConfig, name: str, workspace: Path, *, begun: bool) -> State[str]:
    """Align; where the run's own process still lives though Prefect took it for dead, wait for its end first."""
    while True:
        try:
            return _align(config, name, workspace)
        except RunBusyError as busy:
            if not begun:
                raise
            get_run_logger().warning("%s; waiting for it", busy.what)
            time.sleep(BUSY_S)


def _align(config: RaftConfig, name: str, workspace: Path) -> State[str]:
    from flows.loop.align import align_run
    from flows.loop.preparing import prepare_example
    from raft_core.examples import examples_of

    log = LogReporter()
    for example in examples_of(config):
        prepare_example(example, log)
    facts = {"run": name, "model": registered_name(config)}
    try:
        ended = align_run(config, name=name, workspace=workspace, tracking_uri=tracking_uri(workspace), reporter=log)
    except GateStop as stop:
        announce(STOPPED, "run", name, **facts, reason=str(stop))
        return Completed(name="Stopped", message=str(stop), data=name)
    stopped = ended.status == "stopped"
    announce(STOPPED if stopped else FINISHED, "run", name, **facts, reason=ended.reason, best=ended.best)
    return Completed(name="Stopped" if stopped else None, message=f"{ended.status}: {ended.reason}", data=name)


def _this_run() -> FlowRun:
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run


def _ended(this: FlowRun) -> State[str] | None:
    """How this flow run had ended, where silence alone started it again: the word of its end was lost on the way.

    Several automations may have noticed the silence: the state before the first of them counts.
    """
    with get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(this.id), key=lambda state: state.timestamp)
    for before, again in reversed(list(pairwise(states))):
        if again.name == "AwaitingRetry" != before.name:
            lost = (again.message or "").startswith(SILENT) and before.is_final() and not before.is_crashed()
            return State(type=before.type, name=before.name, message=before.message) if lost else None
    return None


def _check_starts(this: FlowRun) -> None:
    if this.run_count > MAX_STARTS:
        raise StepError(
            "this flow run was killed too often",
            got=f"start {this.run_count}",
            expected=f"{MAX_STARTS} at most",
            hint="look at what ends it (memory? disk?), then resume the run by hand",
        )
