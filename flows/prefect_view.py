"""What Prefect's pages show of a run: how far it is, the scorecard, where its records lie, and how it ended.

A projection like MLflow and DVC: while Prefect's server is away, the run goes on.
"""

from collections.abc import Callable
from uuid import UUID

import httpx
from prefect.artifacts import create_markdown_artifact, create_progress_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed

from flows import prefect_server
from flows.session import Session
from raft_core.errors import StepError
from raft_core.gates import Decision
from raft_core.records.run import Run, read_chain, read_events, record_event
from tasks.decide import decide, label, read_report

SHOWN = ("reward", "reward_low", "reward_high", "gold_reward", "perplexity", "distinct_2", "kl", "headroom")
LIVE = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)


def seen_through(session: Session, flow: Callable[[], Decision]) -> Decision:
    """Run ``flow`` in Prefect; a server that could not be told the end costs a warning, not the run.

    Raises StepError if Prefect's server is away from the start.
    """
    if not PREFECT_API_URL.value():
        prefect_server.tie()
    try:
        return flow()
    except (httpx.HTTPError, RuntimeError) as error:
        if not (isinstance(error, httpx.HTTPError) or "Failed to reach API" in str(error)):
            raise
        decision = decide(session.run)
        if decision is not None and not decision.go_on:
            session.outage("Prefect", f"Prefect's server does not know yet how the run ended: {error}", step="flow")
            return decision
        raise StepError(
            f"Prefect's server at {PREFECT_API_URL.value()} is away", got=error,
            do="start it, or unset PREFECT_API_URL: a temporary one then serves",
        ) from error  # fmt: skip


def heal(session: Session) -> None:
    """Note which flow run this is, and mark earlier ones of the same run that still seem to live as crashed.

    Only the holder of the run's lease comes here, so nobody works in those.
    """
    current = flow_run.get_id()
    ours = [event["flow_run"] for event in read_events(session.run, "flow_run")]
    ended = {event["flow_run"] for event in read_events(session.run, "flow_run_ended")}
    if current not in ours:
        record_event(session.run, "flow_run", flow_run=current)
    for identity in dict.fromkeys(ours):
        if identity != current and identity not in ended:
            state = _mark(session.run, identity)
            record_event(session.run, "flow_run_ended", flow_run=identity, state=state)


def _mark(run: Run, identity: str) -> str | None:
    """The state that a flow run ended in; None if this server does not know it."""
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(UUID(identity)).state
        except ObjectNotFound:
            return None
        if state is not None and state.type in LIVE:
            state = Crashed(message=f"Its process ended without a word. Run {run.name} was taken up again later.")
            client.set_flow_run_state(UUID(identity), state, force=True)
        return state.name if state else None


def publish(session: Session, decision: Decision) -> None:
    """Publish the run's progress, scorecard and records, under keys that stay the same."""
    try:
        _publish(session.run, decision)
    except httpx.HTTPError as error:
        session.outage("Prefect", f"Prefect's server is away: {type(error).__name__}", step="publish")
    else:
        session.answered("Prefect")


def _publish(run: Run, decision: Decision) -> None:
    reports = [read_report(run, commit.iteration) for commit in read_chain(run)]
    key = "".join(c if c.isalnum() else "-" for c in run.name.lower())
    progress = 100.0 if not decision.go_on else 100.0 * (len(reports) - 1) / run.config.iterations
    create_progress_artifact(progress, key=f"{key}-progress", description=decision.reason)
    rows = [{"iteration": label(r["iteration"]), **{name: r.get(name) for name in SHOWN}} for r in reports]
    create_table_artifact(rows, key=f"{key}-scorecard", description=decision.reason)
    create_markdown_artifact(
        f"# {run.name}\n\n{decision.reason}\n\n- records: `{run.path}`\n- table: `raft show {run.name}`\n"
        f"- lineage: `raft lineage show {run.name}`\n",
        key=f"{key}-records",
    )
