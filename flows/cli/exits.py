"""How a command ends: its exit code, and the message of an error on standard error."""

import shlex
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from flows.cli.document import one_document, print_failure
from flows.process.secrecy import without_secrets
from flows.text import harmless
from raft_core.errors import ConfigError, GateStop, InputError, RaftError, RunBusyError, RunMismatchError
from raft_core.redaction import redacted_text

DONE, USERS_MISTAKE, STOPPED_BY_GATE, FAILED_STEP, INTERRUPTED = 0, 2, 3, 4, 130
LEGEND = f"""\
Exit codes:

{DONE:<3} done
{USERS_MISTAKE:<3} a mistake in the command line, the configuration or the input
{STOPPED_BY_GATE:<3} stopped by a gate: the model did not pass
{FAILED_STEP:<3} a step failed, or a check found a problem
{INTERRUPTED} interrupted; what was finished is kept
"""
RESUME = "resume with:"


def exit_code(error: RaftError) -> int:
    """The exit code of a RaftError."""
    if isinstance(error, ConfigError | InputError | RunBusyError | RunMismatchError):
        return USERS_MISTAKE
    return STOPPED_BY_GATE if isinstance(error, GateStop) else FAILED_STEP


def run_command(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run one command line of ``app`` and return its exit code; an error is printed on standard error.

    With --json, standard output gets exactly one JSON document, also if the command fails.
    """
    with one_document() if "--json" in arguments and "--help" not in arguments else nullcontext():
        code, error = _run(app, arguments)
        if code != DONE:
            print_failure(_document(code, error))
        return code


def _run(app: Callable[..., Any], arguments: Sequence[str]) -> tuple[int, BaseException | None]:
    """The exit code, and the error that led to it."""
    debug = "--debug" in arguments
    try:
        app([a for a in arguments if a != "--debug"], prog_name="raft")
    except SystemExit as leave:
        return _left(leave, arguments), None
    except RaftError as error:
        if debug:
            sys.stderr.write(redacted_text(traceback.format_exc()))
        tell("\n  ".join([f"error: {error}", *_notes(error)]))
        return exit_code(error), error
    except BaseException as error:  # a reward may raise anything
        if debug:
            sys.stderr.write(redacted_text(traceback.format_exc()))
        message = f"error: {type(error).__name__}: {error}"
        tell("\n  ".join([message, f"traceback: {_keep_traceback()}", *_notes(error)]))
        return FAILED_STEP, error
    return DONE, None


def _document(code: int, error: BaseException | None) -> dict[str, Any]:
    """The JSON document of a command that failed."""
    if isinstance(error, RaftError):
        parts = {"what": error.what, "got": error.got, "expected": error.expected, "hint": error.hint}
    elif error is not None:
        parts = {"what": f"{type(error).__name__}: {error}"}
    else:
        parts = {"what": "interrupted" if code == INTERRUPTED else "see standard error"}
    shown = {key: without_secrets(str(value)) for key, value in parts.items() if value is not None}
    return {"error": {"kind": type(error).__name__ if error else None, **shown}, "exit_code": code}


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Add the command that continues ``run`` to the message of an error or interrupt that ends the block."""
    try:
        yield
    except BaseException as error:
        users_own = isinstance(error, RaftError) and exit_code(error) != FAILED_STEP
        if not users_own and (run / "config.yaml").exists():
            error.add_note(f"{RESUME} {shlex.join(['raft', 'resume', run.name])}")
        raise


def end_on_sigterm() -> None:
    """Make SIGTERM stop a command as Ctrl-C does: child processes end, finished work is kept, exit code 130."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def tell(text: str) -> None:
    """Print to standard error, without secrets and without control characters that a reward or model put there."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("\n".join(harmless(line, 2000) for line in redacted_text(text).splitlines())))


def _notes(error: BaseException | None) -> list[str]:
    """Resume commands added to ``error`` or to its cause: typer replaces KeyboardInterrupt by another exception."""
    notes: list[str] = []
    while error is not None and not notes:
        notes = [note for note in getattr(error, "__notes__", []) if note.startswith(RESUME)]
        error = error.__cause__ or error.__context__
    return notes


def _left(leave: SystemExit, arguments: Sequence[str]) -> int:
    """Typer turns Ctrl-C into ``SystemExit(130)`` and a wrong command line into ``SystemExit(2)``."""
    code = leave.code
    if code == INTERRUPTED:
        notes = _notes(leave) or [f"run again: {shlex.join(['raft', *arguments])}"]
        tell("; ".join(["interrupted; finished steps are kept", *notes]))
    if code is None:
        return DONE
    return code if isinstance(code, int) else FAILED_STEP


def _keep_traceback() -> str:
    text = without_secrets(traceback.format_exc())
    try:
        with tempfile.NamedTemporaryFile("w", prefix="raft-traceback-", suffix=".txt", delete=False) as file:
            file.write(text)
    except OSError:
        sys.stderr.write(text)
        return "above"
    return file.name
