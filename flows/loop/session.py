"""The context of a live run: where it syncs to, who shows progress, what each step cost, which errors are retried."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun
from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger
from pydantic import SecretStr

from flows.process.progress import Reporter
from flows.process.secrecy import without_secrets
from raft_core.errors import DivergedError, GateStop, IntegrityError, RewardError
from raft_core.launch import processes
from raft_core.records.run import Run, record_event
from tasks.loop.iteration import Iteration


@dataclass(frozen=True, slots=True)
class Session:
    """The process that works on a run."""

    run: Run
    workspace: Path
    tracking_uri: SecretStr
    """Secret, since Prefect stores a flow's parameters and the address may contain a password."""
    reporter: Reporter = field(default_factory=Reporter)
    away: set[str] = field(default_factory=set)
    """Services whose last sync failed (MLflow, DVC, Prefect); each is reported once, until it works again."""

    @contextmanager
    def step(self, it: Iteration, step: str, total: int | None = None, unit: str = "tokens") -> Iterator["Running"]:
        """Time a step, show its progress, and record both as an event when it succeeds."""
        running = Running()
        reset_peak_memory()
        start = time.monotonic()
        with self.reporter.step(f"{it.label} · {step}", total, unit) as advance:
            running.advance = advance
            yield running
            advance.note = "reused" if running.reused else ""
        if running.summary:
            _log(f"{running.summary} (reused)" if running.reused else running.summary)
        record_event(
            self.run,
            "step",
            iteration=it.number,
            step=step,
            seconds=round(time.monotonic() - start, 3),
            tokens=running.done,
            unit=unit,
            reused=running.reused,
            peak_rss_mb=max(peak_memory_mb(), processes.take_peak_memory_mb()),
        )

    def warn(self, message: str, **facts: object) -> None:
        """Show a warning, and record it as an event of the run."""
        message = without_secrets(message)
        record_event(self.run, "warning", message=message, **facts)
        self.reporter.warn(message)

    def outage(self, who: str, message: str, **facts: object) -> None:
        """Warn that ``who`` cannot be brought up to date, unless it was reported already. Nothing is lost."""
        if who not in self.away:
            self.away.add(who)
            command = f"raft {'resume' if who == 'Prefect' else 'sync'} {self.run.name}"
            self.warn(f"{message}\n  nothing is lost: {who} is updated after the next step, or by {command}", **facts)

    def answered(self, who: str) -> None:
        """Note that ``who`` was brought up to date."""
        if who in self.away:
            self.away.discard(who)
            self.reporter.say(f"{who} is up to date again")


@dataclass(slots=True)
class Running:
    """The step in progress; mutable, since it counts."""

    advance: Callable[[int], None] = lambda done: None
    done: int = 0
    reused: bool = False
    summary: str = ""

    def progress(self, count: int) -> None:
        """Count ``count`` more tokens."""
        self.done += count
        self.advance(count)

    def ended(self, summary: str, *, reused: bool = False) -> None:
        """Say what the step did, in one line for the log, and whether an earlier result was reused."""
        self.summary, self.reused = summary, reused


def _log(line: str) -> None:
    """Write to the log of the Prefect task, if there is one."""
    with suppress(MissingContextError):
        get_run_logger().info(line)


def reset_peak_memory() -> None:
    """Reset this process's peak memory, if the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mb() -> int:
    """Highest resident memory since ``reset_peak_memory``; 0 if the kernel does not report it."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    return 0


FINAL = (ValueError, LookupError, TypeError, AssertionError, IntegrityError, RewardError, GateStop, DivergedError)
"""Errors that would happen again: never retried."""


async def may_pass(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Prefect's retry condition: whether another try can help."""
    return not isinstance(await state.aresult(raise_on_failure=False), FINAL)
