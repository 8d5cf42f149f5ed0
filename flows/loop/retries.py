"""Which failures of a task another try can help."""

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from raft_core.errors import DivergedError, GateStop, IntegrityError, RewardError

FINAL = (ValueError, LookupError, TypeError, AssertionError, IntegrityError, RewardError, GateStop, DivergedError)
"""Failures that the same call would meet again: never retried."""


async def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether another try can help."""
    return not isinstance(await state.aresult(raise_on_failure=False), FINAL)
