"""What Prefect's pages show of a run: how far it is, the scorecard, where its records lie, and how it ended.

A projection like MLflow and DVC: while Prefect's server is away, the run goes on.
"""

from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Crashed

from flows.loop.session import Session
from flows.orchestration import server as prefect_server
from raft_core.errors import StepError
from raft_core.gates import Decision
from raft_core.metrics.registry import figures, table_columns
from raft_core.records.run import Run, read_chain, read_events, record_event
from tasks.loop.decide import decide, label, read_report

UNTOLD = "Prefect's server does not know yet how the run ended"
LIVE = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def seen_through(session: Session, flow: Callable[[], Decision]) -> Decision:
    """Run ``flow`` in Prefect; a server that could not be told the end costs a warning, not the run.

    Raises StepError, naming the server's address, if it cannot be reached from the start or refuses a request.
    """
    try:
        with prefect_server.tied():
            decision = flow()
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


def heal(session: Session) -> None:
    """Note which flow run this is, and mark earlier ones of the same run that still seem to live as crashed.

    Only the holder of the run's lease comes here, so nobody works in those.
    """
    current, earlier = flow_run.get_id(), unended(session.run)
    if current not in earlier:
        record_event(session.run, "flow_run", flow_run=current)
    died: State = Crashed(message=f"Its process ended without a word. Run {session.run.name} was taken up again later.")
    for identity in earlier:
        if identity != current:
            _record_ended(session.run, identity, _mark(identity, died))


def tell_end(session: Session, decision: Decision) -> None:
    """Let Prefect show the end of a finished run, where a process or server that died kept it from being told."""
    if not (untold := unended(session.run)):
        return
    try:
        with prefect_server.tied():
            for identity in untold:
                _record_ended(session.run, identity, _mark(identity, Completed(message=decision.reason)))
            publish(session, decision)
    except (httpx.HTTPError, RuntimeError) as error:
        if not _is_servers(error):
            raise
        session.outage("Prefect", f"{UNTOLD}: {error}", step="flow")


def unended(run: Run) -> list[str]:
    """The flow runs of a run of which nothing says that they ended, in order."""
    ended = {event["flow_run"] for event in read_events(run, "flow_run_ended")}
    ours = dict.fromkeys(event["flow_run"] for event in read_events(run, "flow_run"))
    return [identity for identity in ours if identity not in ended]


def _record_ended(run: Run, identity: str, state: str | None) -> None:
    record_event(run, "flow_run_ended", flow_run=identity, state=state)


def _is_servers(error: Exception) -> bool:
    """Whether ``error`` is Prefect's server's, and no step's."""
    told = str(error)
    return isinstance(error, httpx.HTTPError) or "Failed to reach API" in told or "ephemeral Prefect API" in told


def _server_fault(error: Exception) -> StepError:
    """What went wrong with which server, and what helps: an answer of refusal is no absence."""
    chosen = PREFECT_API_URL.value()
    server = f"Prefect's server at {chosen}" if chosen else f"Prefect's temporary server at {prefect_server.address()}"
    if isinstance(error, httpx.HTTPStatusError):
        asked = f"{error.request.method} {error.request.url.path}"
        return StepError(
            f"{server} refused {asked}",
            got=f"status {error.response.status_code}: {error.response.text[:500]}",
            hint="see the server's log; if PREFECT_API_URL names one of another version of Prefect, unset it",
        )
    if chosen:
        return StepError(
            f"{server} cannot be reached",
            got=f"{type(error).__name__}: {error}",
            hint="start it, or unset PREFECT_API_URL: the run then starts a temporary one",
        )
    return StepError(
        f"{server} does not answer",
        got=f"{type(error).__name__}: {error}",
        hint="check memory and disk space, and the folder PREFECT_HOME (default ~/.prefect); then resume",
    )


def _mark(identity: str, ended: State) -> str | None:
    """The state that a flow run ended in: ``ended`` if it still seems to live; None if this server does not know it."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(identity)).state
        except ObjectNotFound:
            return None
        if state is not None and state.type in LIVE:
            client.set_flow_run_state(UUID(identity), state := ended, force=True)
        return state.name if state else None


def publish(session: Session, decision: Decision) -> None:
    """Publish the run's progress, scorecard and records, under keys that stay the same."""
    try:
        _publish(session.run, decision)
    except httpx.HTTPError as error:
        fault = _server_fault(error)
        session.outage("Prefect", f"its pages of the run are not updated: {fault.what} ({fault.got})", step="publish")
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
        f"# {run.name}\n\n{decision.reason}\n\n- records: `{run.path}`\n- table: `raft show {run.name}`\n"
        f"- lineage: `raft lineage show {run.name}`\n",
        key=f"{key}-records",
    )
