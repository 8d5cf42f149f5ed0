"""Which failures are tried again."""

import asyncio

import pytest
from prefect import task
from prefect.states import exception_to_failed_state

from flows.loop.session import may_pass
from raft_core.errors import DivergedError, InputError, StepError


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (StepError("a rank was ended by SIGKILL"), True),
        (MemoryError(), True),
        (DivergedError("the training diverged"), False),
        (InputError("no file"), False),
    ],
    ids=repr,
)
def test_what_the_same_call_would_meet_again_is_not_retried(error: BaseException, again: bool) -> None:
    async def tried() -> bool:
        state = await exception_to_failed_state(error)
        return await may_pass(task(lambda: None), None, state)  # type: ignore[arg-type]

    assert asyncio.run(tried()) is again
