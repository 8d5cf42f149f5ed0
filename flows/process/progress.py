"""Progress of long steps: bars on a terminal, plain lines in a log, nothing with --quiet.

A flow passes one ``Reporter`` to its tasks. Everything is printed on standard error; standard output
is for results.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
from rich.text import Text

from flows.text import harmless


class Advance:
    """Called with the number of units (tokens) just done. State: ``note`` is printed when the step ends."""

    def __init__(self, count: Callable[[int], None] = lambda done: None) -> None:
        self._count, self.note = count, ""

    def __call__(self, done: int) -> None:
        self._count(done)


LINE_EVERY_S = 15.0


class Reporter:
    """Prints nothing; base of the two classes that do, and what they become when unpickled in another process."""

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "tokens") -> Iterator[Advance]:
        """Report a long step; yields a callback that counts ``unit`` up to ``total`` (None: unknown)."""
        yield Advance()

    def say(self, text: str) -> None:
        """Print one line of information."""

    def warn(self, text: str) -> None:
        """Print one line of warning."""

    def __reduce__(self) -> tuple[type["Reporter"], tuple[()]]:
        return Reporter, ()


class LineReporter(Reporter):
    """Plain lines, for logs: one when a step ends, and one every 15 seconds while it runs."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "tokens") -> Iterator[Advance]:
        """See ``Reporter.step``."""
        start = self._clock()
        done, last_line = 0, start

        def count_up(count: int) -> None:
            nonlocal done, last_line
            done += count
            now = self._clock()
            if now - last_line >= LINE_EVERY_S:
                last_line = now
                self._line(f"{label}: {_so_far(done, total, unit, now - start)}")

        advance = Advance(count_up)
        try:
            yield advance
        except BaseException:
            self._line(f"{label}: did not finish, {_summary(done, unit, self._clock() - start)}")
            raise
        self._line(f"{label}: {_summary(done, unit, self._clock() - start, advance.note)}")

    def say(self, text: str) -> None:
        """See ``Reporter.say``."""
        self._line(text)

    def warn(self, text: str) -> None:
        """See ``Reporter.warn``."""
        self._line(f"warning: {text}")

    def _line(self, text: str) -> None:
        self._console.print(Text(_lines(text)), soft_wrap=True)


class BarReporter(Reporter):
    """A live bar per running step, which is replaced by one line when the step ends.

    Holds state because the bars of nested steps share one live display.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[pace]}", markup=False),
            console=console,
            transient=True,
        )
        self._depth = 0

    @contextmanager
    def step(self, label: str, total: int | None = None, unit: str = "tokens") -> Iterator[Advance]:
        """See ``Reporter.step``."""
        bar = self._bars.add_task(label, total=total, pace="")
        task = next(task for task in self._bars.tasks if task.id == bar)
        self._depth += 1
        self._bars.start()

        def count_up(count: int) -> None:
            self._bars.update(bar, advance=count, pace=_so_far(int(task.completed) + count, total, unit, _age(task)))

        advance = Advance(count_up)
        mark, style = "✗", "red"
        try:
            yield advance
            mark, style = "✓", "green"
        finally:
            summary = _summary(int(task.completed), unit, _age(task), advance.note)
            line = Text.assemble((mark, style), f" {label}  ", (summary, "dim"))
            self._bars.remove_task(bar)
            self._depth -= 1
            if self._depth == 0:
                self._bars.stop()
            self._console.print(line, soft_wrap=True)

    def say(self, text: str) -> None:
        """See ``Reporter.say``."""
        self._console.print(Text(_lines(text)), soft_wrap=True)

    def warn(self, text: str) -> None:
        """See ``Reporter.warn``."""
        self._console.print(Text.assemble(("! ", "yellow"), _lines(text)), soft_wrap=True)


def reporter(*, quiet: bool = False, console: Console | None = None) -> Reporter:
    """Bars if standard error is a terminal, plain lines if not, nothing if ``quiet``."""
    if quiet:
        return Reporter()
    console = console or Console(stderr=True, highlight=False)
    return BarReporter(console) if console.is_terminal else LineReporter(console)


def _age(task: Task) -> float:
    return task.elapsed or 0.0


def _so_far(done: int, total: int | None, unit: str, seconds: float) -> str:
    if not done:
        return f"{duration(seconds)} so far"
    pace = done / seconds if seconds > 0 else 0.0
    if not total:
        return f"{done:,} {unit}, {pace:,.0f} {unit}/s"
    left = f"{duration((total - done) / pace)} left" if pace > 0 and total > done else ""
    parts = [f"{done:,} of {total:,} {unit}", f"{pace:,.0f} {unit}/s", left]
    return ", ".join(part for part in parts if part)


def _summary(done: int, unit: str, seconds: float, note: str = "") -> str:
    if note or not done:
        return ", ".join(filter(None, (note, duration(seconds))))
    pace = f" ({done / seconds:,.0f} {unit}/s)" if seconds > 0 else ""
    return f"{duration(seconds)}, {done:,} {unit}{pace}"


def _lines(text: str) -> str:
    return "\n".join(map(harmless, text.splitlines()))


def duration(seconds: float) -> str:
    """0.3 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
