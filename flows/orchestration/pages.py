"""Prefect's pages of a run: progress, scorecard, paths of the records, and how the run ended.

Like MLflow and DVC they are only a view: if Prefect's server cannot be reached, the run continues.
"""

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Completed, Crashed

from flows.loop.session import Session
from flows.orchestration import server as prefect_server
from raft_core.errors import StepError
from raft_core.gates import Decision
from raft_core.metrics.registry import figures, table_columns
from raft_core.records.run import Run, read_chain, read_events, record_event
from tasks.loop.decide import decide, label, read_report

UNTOLD = "could not report the end of the run to Prefect's server"
LIVE = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def seen_through(session: Session, flow: Callable[[], Decision]) -> Decision:
    """Run ``flow`` in Prefect. Ctrl-C and SIGTERM end it as Cancelled.

    If only its end cannot be reported to the server, that is a warning.

    Raises StepError with the server's address if it cannot be reached at the start, or rejects a request.
    """
    try:
        with prefect_server.tied():
            try:
                decision = flow()
            except (KeyboardInterrupt, SystemExit, TerminationSignal):
                _cancelled(session.run)
                raise
        for identity in unended(session.run):
            _record_ended(session.run, identity, "Completed")
        return decision
    except (httpx.HTTPError, RuntimeError) as error:
        if not _is_servers(error):
            raise
        ended = decide(session.run)
        if ended is not None and not ended.go_on:
            session.outage("Prefect", f"{UNTOLD}: {error}", step="flow")
            return ended
        raise _server_fault(error) from error


def _cancelled(run: Run) -> None:
    """Show an interrupted flow run as Cancelled: Prefect itself would leave it as Crashed, as if it had died."""
    ended: State = Cancelled(message=f"Stopped by Ctrl-C or SIGTERM. To continue: raft resume {run.name}")
    for identity in unended(run)[-1:]:
        with suppress(httpx.HTTPError, RuntimeError, ObjectNotFound), get_client(sync_client=True) as client:
            client.set_flow_run_state(UUID(identity), ended, force=True)
            _record_ended(run, identity, ended.name)


def heal(session: Session) -> None:
    """Record the id of this flow run, and mark earlier flow runs of the same run that look alive as crashed.

    The caller holds the run's lease, so no process works in them.
    """
    current, earlier = flow_run.get_id(), unended(session.run)
    if current not in earlier:
        record_event(session.run, "flow_run", flow_run=current)
    died: State = Crashed(
        message=f"The process died without reporting an end. Run {session.run.name} was resumed by another flow run."
    )
    for identity in earlier:
        if identity != current:
            _record_ended(session.run, identity, _mark(identity, died))


def tell_end(session: Session, decision: Decision) -> None:
    """Report the end of a finished run to Prefect, if a dead process or server kept it from being reported."""
    if not (open_runs := unended(session.run)):
        return
    try:
        with prefect_server.tied():
            for identity in open_runs:
                _record_ended(session.run, identity, _mark(identity, Completed(message=decision.reason)))
            publish(session, decision)
    except (httpx.HTTPError, RuntimeError) as error:
        if not _is_servers(error):
            raise
        session.outage("Prefect", f"{UNTOLD}: {error}", step="flow")


def unended(run: Run) -> list[str]:
    """The ids of a run's flow runs whose end is not recorded, in order."""
    ended = {event["flow_run"] for event in read_events(run, "flow_run_ended")}
    ours = dict.fromkeys(event["flow_run"] for event in read_events(run, "flow_run"))
    return [identity for identity in ours if identity not in ended]


def _record_ended(run: Run, identity: str, state: str | None) -> None:
    record_event(run, "flow_run_ended", flow_run=identity, state=state)


def _is_servers(error: Exception) -> bool:
    """Whether ``error`` comes from Prefect's server and not from a step."""
    text = str(error)
    return isinstance(error, httpx.HTTPError) or "Failed to reach API" in text or "ephemeral Prefect API" in text


def _server_fault(error: Exception) -> StepError:
    """The error of the server, with its address: it rejected a request, cannot be reached, or did not start."""
    chosen = PREFECT_API_URL.value()
    server = f"Prefect's server at {chosen}" if chosen else f"Prefect's temporary server at {prefect_server.address()}"
    if isinstance(error, httpx.HTTPStatusError):
        asked = f"{error.request.method} {error.request.url.path}"
        return StepError(
            f"{server} rejected the request {asked}",
            got=f"status {error.response.status_code}: {error.response.text[:500]}",
            hint="look at the server's log; if the server runs another version of Prefect, unset PREFECT_API_URL",
        )
    if chosen:
        return StepError(
            f"{server} cannot be reached",
            got=f"{type(error).__name__}: {error}",
            hint="start the server, or unset PREFECT_API_URL to let the run start a temporary one",
        )
    return StepError(
        f"{server} does not answer",
        got=f"{type(error).__name__}: {error}",
        hint="check memory, disk space and the folder PREFECT_HOME (default ~/.prefect), then run raft resume",
    )


def _mark(identity: str, ended: State) -> str | None:
    """The name of a flow run's final state: ``ended`` if it looks alive; None if this server does not know it."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(identity)).state
        except ObjectNotFound:
            return None
        if state is not None and state.type in LIVE:
            client.set_flow_run_state(UUID(identity), state := ended, force=True)
        return state.name if state else None


def publish(session: Session, decision: Decision) -> None:
    """Publish the run's progress, scorecard and records as artifacts with fixed keys."""
    try:
        _publish(session.run, decision)
    except httpx.HTTPError as error:
        fault = _server_fault(error)
        session.outage(
            "Prefect", f"could not update Prefect's pages of the run: {fault.what} ({fault.got})", step="publish"
        )
    else:
        session.answered("Prefect")


def _publish(run: Run, decision: Decision) -> None:
    reports = [read_report(run, commit.iteration) for commit in read_chain(run)]
    key = "".join(c if c.isalnum() else "-" for c in run.name.lower())
    progress = 100.0 if not decision.go_on else 100.0 * (len(reports) - 1) / run.config.iterations
    create_progress_artifact(progress, key=f"{key}-progress", description=decision.reason)
    shown = table_columns(figures(run.config.evaluation.metrics))
    rows = [{"iteration": label(r["iteration"]), **{name: r.get(name) for name in shown}} for r in reports]
    create_table_artifact(rows, key=f"{key}-scorecard", description=decision.reason)
    create_markdown_artifact(
        f"# {run.name}\n\n{decision.reason}\n\n"
        f"- Best so far: {label(decision.best)}\n"
        f"- Records: `{run.path}`\n"
        f"- Scorecard: `raft show {run.name}`\n"
        f"- Lineage: `raft lineage show {run.name}`\n",
        key=f"{key}-records",
    )
