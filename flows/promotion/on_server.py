"""``raft promote`` as Prefect's server shows it: one flow run a promotion, which can wait there for a person.

A projection like MLflow: the ledger decides. Without a server, or while it is away, the promotion is the same;
none is started for it, since it would end with the command and nobody could look.
"""

from collections.abc import Callable

import httpx
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed

from flows.orchestration.server import refuse_results
from flows.process.progress import Reporter
from flows.promotion.approval import decide_by_pause, wait_for_decision
from flows.promotion.promote import Outcome, Place, Question, promote_model


def promote_shown(question: Question, place: Place, wait_s: float | None = None) -> Outcome:
    """``promote_model``; ``wait_s``: wait so long for a person, by Prefect's form or by a command.

    Raises a RaftError; GateStop for a person who may not approve: the request then stays open.
    """
    came: list[Outcome] = []

    def act(*, form: bool = True) -> Outcome:
        came.append(promote_model(question, place))
        if came[0].status == "requested" and came[0].entry is not None and wait_s is not None:
            place.reporter.say(came[0].message)
            came.append(
                decide_by_pause(came[0].entry, place, question.policy_file, wait_s)
                if form
                else wait_for_decision(came[0].entry, place, wait_s)
            )
        return came[-1]

    if question.dry_run or not _answers(place.reporter):
        return act(form=False)
    shown = promote.with_options(flow_run_name=f"promote {question.candidate}")
    file = str(question.policy_file) if question.policy_file else None
    refuse_results()
    try:
        shown(question.candidate, question.by, question.reason, file, act)
    except (httpx.HTTPError, RuntimeError) as error:
        if not came or not (isinstance(error, httpx.HTTPError) or "Failed to reach API" in str(error)):
            raise
        place.reporter.warn(f"Prefect's server does not know how this ended; the ledger does: {error}")
    return came[-1]


@flow(name="promote", validate_parameters=False)
def promote(candidate: str, by: str, reason: str, policy: str | None, act: Callable[[], Outcome]) -> State[Outcome]:
    """Hold a candidate against the champion. All parameters but ``act`` are there to be seen."""
    outcome = act()
    return Completed(name=outcome.status.capitalize().replace("_", " "), message=outcome.message, data=outcome)


def _answers(reporter: Reporter) -> bool:
    if not PREFECT_API_URL.value():
        return False
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error:
        reporter.warn(
            f"Prefect's server at {PREFECT_API_URL.value()} cannot be reached, and will not show this: {error}"
        )
    return not error
