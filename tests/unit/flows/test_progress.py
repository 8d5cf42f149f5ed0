"""Progress: lines in a log, bars on a terminal, silence in another process."""

import pickle
from collections.abc import Callable
from io import StringIO

import pytest
from pydantic import SecretStr
from rich.console import Console

from flows.loop.session import Session
from flows.process.progress import BarReporter, LineReporter, Reporter, duration, reporter
from raft_core.records.run import Run
from raft_core.types import Policy
from tasks.loop.iteration import Iteration


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_of_a_step_by_hand() -> None:
    out, clock = StringIO(), Clock()
    watching = LineReporter(Console(file=out), clock)
    with watching.step("iteration 3 · sample", total=1000) as advance:
        clock.now = 10.0
        advance(200)
        assert out.getvalue() == ""
        clock.now = 20.0
        advance(200)
        clock.now = 25.0
        advance(600)
    assert out.getvalue().splitlines() == [
        "iteration 3 · sample: 400 of 1,000 tokens, 20 tokens/s, 30 s left",
        "iteration 3 · sample: 25 s, 1,000 tokens (40 tokens/s)",
    ]


def test_a_step_that_is_reused_says_so() -> None:
    out, clock = StringIO(), Clock()
    console = Console(file=out, force_terminal=True, color_system=None, width=100)
    for watching in (LineReporter(Console(file=out), clock), BarReporter(console)):
        with watching.step("iteration 3 · sample", total=1000) as advance:
            advance.note = "reused"
    assert "iteration 3 · sample: reused, 0.0 s\n" in out.getvalue()
    assert "✓ iteration 3 · sample  reused, 0.0 s" in out.getvalue()


def test_a_session_says_what_is_reused(write_run: Callable[..., Run]) -> None:
    out, run = StringIO(), write_run(iterations=1, finished=False)
    session = Session(run, run.path.parents[1], SecretStr(""), LineReporter(Console(file=out)))
    it = Iteration(run, 1, Policy(run.path, "p"), Policy(run.path, "p"))
    for reused in (True, False):
        with session.step(it, "score") as running:
            running.reused = reused
    first, second = out.getvalue().splitlines()
    assert first.startswith("iteration 1 · score: reused, ")
    assert "reused" not in second


def test_a_step_that_breaks_says_so() -> None:
    out = StringIO()
    with pytest.raises(ZeroDivisionError), LineReporter(Console(file=out)).step("x"):
        raise ZeroDivisionError
    assert out.getvalue().startswith("x: did not finish")


def test_labels_and_messages_are_no_markup() -> None:
    out = StringIO()
    watching = LineReporter(Console(file=out))
    watching.say("[red]a[/red] \x1b[2J")
    watching.warn("[b]")
    assert out.getvalue() == "[red]a[/red] \\x1b[2J\nwarning: [b]\n"


def test_bars_of_nested_steps_leave_a_line_each() -> None:
    out = StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=100)
    watching = reporter(console=console)
    assert isinstance(watching, BarReporter)
    for _ in range(2):
        with watching.step("outer", total=10) as outer, watching.step("inner") as inner:
            inner(3)
            outer(10)
    kept = [line.split("\r")[-1] for line in out.getvalue().splitlines()]
    assert sum("✓ outer" in line and "10 tokens" in line for line in kept) == 2
    assert sum("✓ inner" in line and "3 tokens" in line for line in kept) == 2


def test_what_suits_where_it_goes() -> None:
    assert type(reporter(quiet=True)) is Reporter
    assert isinstance(reporter(console=Console(file=StringIO())), LineReporter)


def test_in_another_process_it_is_silent() -> None:
    watching = pickle.loads(pickle.dumps(LineReporter(Console(file=StringIO()))))
    assert type(watching) is Reporter
    with watching.step("x") as advance:
        advance(1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.2 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
