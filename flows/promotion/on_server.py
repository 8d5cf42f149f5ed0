"""``raft promote`` on a Prefect server: one flow run per promotion, which can wait there for a person to decide.

The server only shows what happens; the ledger decides. Without a server, or if it cannot be reached, the promotion is
the same. No temporary server is started for it, since it would end with the command.
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
    """``promote_model``, as a flow run where there is a server.

    ``wait_s``: seconds to wait for a person to decide on a request, in Prefect's form or by a command; None: do not
    wait.

    Raises a RaftError; GateStop for a person who may not approve: the request then stays open.
    """
    outcomes: list[Outcome] = []

    def act(*, form: bool = True) -> Outcome:
        outcomes.append(promote_model(question, place))
        if outcomes[0].status == "requested" and outcomes[0].entry is not None and wait_s is not None:
            place.reporter.say(outcomes[0].message)
            outcomes.append(
                decide_by_pause(outcomes[0].entry, place, question.rules_file, wait_s)
                if form
                else wait_for_decision(outcomes[0].entry, place, wait_s)
            )
        return outcomes[-1]

    if question.dry_run or not _answers(place.reporter):
        return act(form=False)
    shown = promote.with_options(flow_run_name=f"promote {question.candidate}")
    file = str(question.rules_file) if question.rules_file else None
    refuse_results()
    try:
        shown(question.candidate, question.by, question.reason, file, act)
    except (httpx.HTTPError, RuntimeError) as error:
        if not outcomes or not (isinstance(error, httpx.HTTPError) or "Failed to reach API" in str(error)):
            raise
        place.reporter.warn(
            f"the end of this promotion was not reported to Prefect's server ({error}); raft ledger shows it"
        )
    return outcomes[-1]


@flow(name="promote", validate_parameters=False)
def promote(candidate: str, by: str, reason: str, policy: str | None, act: Callable[[], Outcome]) -> State[Outcome]:
    """Compare a candidate with the champion. Every parameter but ``act`` is only shown on the server."""
    outcome = act()
    return Completed(name=outcome.status.capitalize().replace("_", " "), message=outcome.message, data=outcome)


def _answers(reporter: Reporter) -> bool:
    if not PREFECT_API_URL.value():
        return False
    with get_client(sync_client=True) as client:
        error = client.api_healthcheck()
    if error:
        reporter.warn(
            f"Prefect's server at {PREFECT_API_URL.value()} cannot be reached and will not show this promotion: {error}"
        )
    return not error
