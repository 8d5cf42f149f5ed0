"""The flows of the deployments, with parameters of plain types that Prefect's form can show.

Each does what a ``raft`` command does. A flow run that was killed and is started again (by a person, an automation, or
``raft deploy --serve``) resumes the same run directory, since that is named after the scheduled time.
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
"""Times at which the end of a flow run is reported. With sqlite, Prefect's server drops events that arrive while it
writes: the event is sent three times, so that an ended run does not count as silent."""
RUN_NAME = "{config}-{date}-{time}"


class LogReporter(Reporter):
    """Writes messages to the log of the flow run."""

    def say(self, text: str) -> None:
        """See ``Reporter.say``."""
        get_run_logger().info(text)

    def warn(self, text: str) -> None:
        """See ``Reporter.warn``."""
        get_run_logger().warning(text)


def go_on(client: SyncPrefectClient, run: FlowRun, why: str) -> None:
    """Mark a flow run whose process was killed as crashed, and start it again at once."""
    client.set_flow_run_state(run.id, Crashed(message=why))
    client.set_flow_run_state(run.id, AwaitingRetry(message=f"{why}: resumes where it stopped"))


def _killed(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Start a crashed run again; Prefect calls this when ``raft deploy --serve`` sees the run's process die.

    A worker of a pool calls it too, but reports the crash once more afterwards, which would undo the restart: there
    the automation for silent runs restarts it.
    """
    if flow_run.work_queue_id is not None:  # work of a pool
        return
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run.id, AwaitingRetry(message=f"{state.message}: resumes where it stopped"))


@flow(name="raft-align", on_crashed=[_killed])
def scheduled_align(
    config: str,
    workspace: str,
    overrides: Sequence[str] = (),
    run_name: str = RUN_NAME,
    new_seed: bool = False,
    overlap: Overlap = "queue",
) -> State[str]:
    """Align a model: start the run of this scheduled time, or resume it if it was started before.

    Args:
        config: Configuration file (YAML), absolute or relative to the workspace.
        workspace: Folder that contains runs/, as an absolute path on the worker.
        overrides: Settings that replace those of the file, as KEY=VALUE, for example sampling.top_p=0.9.
        run_name: Name of the run; {config}, {date} and {time} of the scheduled start (UTC) are filled in.
        new_seed: Use a new seed for each scheduled time, so that each run draws other prompts and samples.
        overlap: If the same model is being aligned already: queue waits for it, refuse ends this run at once.
    """
    this = _this_run()
    folder = Path(workspace)
    when = this.expected_start_time or datetime.now(UTC)
    with _reported(this), chdir(folder):
        if (ended := _ended(this)) is not None:
            return ended
        _check_starts(this)
        settled = _settle(Path(config), overrides, when if new_seed else None)
        name = check_run_name(scheduled_name(run_name, settled, when))
        begun = (folder / "runs" / name).exists()
        if begun:
            get_run_logger().info("resuming run %s (start %d of this flow run)", name, this.run_count)
        try:
            if not begun and is_superseded(this):
                raise Superseded
            with model_slot(registered_name(settled), this, overlap, begun=begun):
                return _align_when_free(settled, name, folder, begun=begun)
        except Superseded:
            return Completed(
                name="Skipped", message="a later run of this schedule is due already and replaces this one"
            )
        except RunBusyError as busy:
            return Cancelled(name="Refused", message=str(busy))


@flow(name="raft-audit")
def scheduled_audit(workspace: str, share: Annotated[float, Field(gt=0, le=1)] = 0.1) -> State[dict[str, int]]:
    """Verify every chain of commits, and re-hash the files of the commits whose last check is the oldest.

    Args:
        workspace: Folder that contains runs/, as an absolute path on the worker.
        share: Share of all commits to re-hash in one audit; 0.1 checks each commit in one of ten audits.
    """
    from tasks.audit.sweep import sweep
    from tasks.promotion.ledger import open_ledger

    with _reported(_this_run()):
        found = sweep(Path(workspace), share, open_ledger(ledger_uri(Path(workspace))))
        counts = {"runs": found.num_runs, "commits": found.num_commits, "rehashed": len(found.rehashed)}
        checked = ", ".join(f"{count} {name}" for name, count in counts.items())
        if not found.problems:
            return Completed(message=f"no problems found: {checked}", data=counts)
        for problem in found.problems:
            get_run_logger().error("%s", problem)
        announce(AUDIT_FAILED, "workspace", Path(workspace).name, workspace=workspace, problems=found.problems[:20])
        return Failed(message=f"{len(found.problems)} problems found; the first: {found.problems[0]}")


@flow(name="raft-promotion")
def scheduled_promotion(
    workspace: str, candidate: str, policy: str | None = None, by: str = "schedule", reason: str = ""
) -> State[str]:
    """Compare a candidate with the champion; promote it or request approval if the promotion rules allow it.

    If the ledger has decided on this candidate already, nothing is measured or written. ``raft promote`` decides again.

    Args:
        workspace: Folder that contains runs/, as an absolute path on the worker.
        candidate: RUN, RUN@N, or a registered MODEL for its newest candidate.
        policy: File with promotion rules, relative to the workspace; default: configs/promotion.yaml if it exists.
        by: Who requests the promotion, recorded in the ledger.
        reason: Why, recorded in the ledger.
    """
    from flows.promotion.promote import Place, Question
    from flows.promotion.unattended import ask_once

    folder = Path(workspace)
    with _reported(_this_run()), chdir(folder):
        place = Place(folder, tracking_uri(folder), ledger_uri(folder), LogReporter())
        file = folder / (policy or "configs/promotion.yaml")
        question = Question(candidate, by, reason, file if policy or file.exists() else None)
        outcome = ask_once(question, place)
        return Completed(name=outcome.status.capitalize(), message=outcome.message, data=outcome.status)


@flow(name="raft-gc")
def scheduled_gc(
    workspace: str, rules: Sequence[str] = (), policy: str | None = None, remove: bool = True
) -> State[int]:
    """Remove weights that no run, registered model or pending approval needs.

    Args:
        workspace: Folder that contains runs/, as an absolute path on the worker.
        rules: Retention rules that replace those of the file, as KEY=VALUE, for example keep_runs=5.
        policy: File with retention rules, relative to the workspace; default: configs/retention.yaml if it exists.
        remove: Turn off for a dry run, which only reports what would be removed.
    """
    from flows.gc import gc, rules_of

    folder = Path(workspace)
    with _reported(_this_run()):
        retention = rules_of(folder, folder / policy if policy else None, rules)
        try:
            found = gc(folder, tracking_uri(folder), ledger_uri(folder), retention, remove=remove)
        except RunBusyError as busy:
            return Cancelled(name="Refused", message=str(busy))
        verb = "removed" if remove else "would remove"
        return Completed(
            message=f"{verb} the weights of {len(found.removable)} policies, {found.freed:,} bytes", data=found.freed
        )


def scheduled_name(template: str, config: RaftConfig, when: datetime) -> str:
    """The name of a scheduled run. Raises ConfigError if the template has unknown fields."""
    utc = when.astimezone(UTC)
    try:
        return template.format(config=config.name, date=f"{utc:%Y%m%d}", time=f"{utc:%H%M%S}")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"invalid template of run names: {error}",
            got=repr(template),
            expected=f"text with the fields {{config}}, {{date}} and {{time}}, such as {RUN_NAME}",
            hint="correct run_name (raft deploy --run-name)",
        ) from None


@contextmanager
def _reported(this: FlowRun) -> Iterator[None]:
    """Send events when the block ends or fails. After a kill there is no event, and the heartbeats stop."""
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
    """Align. If an earlier process of this run is still alive although Prefect counted it as dead, wait for it."""
    while True:
        try:
            return _align(config, name, workspace)
        except RunBusyError as busy:
            if not begun:
                raise
            get_run_logger().warning("%s; waiting until it ends", busy.what)
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
    """The final state of this flow run, if it had ended and was restarted only because the event of its end was lost.

    Several automations may have restarted it: the state before the first of them counts.
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
            f"the flow run {this.name} was killed too often, so it is not started again",
            got=f"start {this.run_count}",
            expected=f"at most {MAX_STARTS} starts",
            hint="find out what kills it (memory? disk?), then run raft resume",
        )
