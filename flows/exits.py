"""How a command ends: 0 done, 2 the user's mistake, 3 stopped by a gate, 4 a failed step, 130 interrupted."""

import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.views.text import harmless
from raft_core.errors import ConfigError, GateStop, InputError, RaftError, RunBusyError, RunMismatchError
from raft_core.redaction import redacted_text

DONE, USERS_MISTAKE, STOPPED_BY_GATE, FAILED_STEP, INTERRUPTED = 0, 2, 3, 4, 130


def exit_code(error: RaftError) -> int:
    """Which exit code an error of ours has."""
    if isinstance(error, ConfigError | InputError | RunBusyError | RunMismatchError):
        return USERS_MISTAKE
    return STOPPED_BY_GATE if isinstance(error, GateStop) else FAILED_STEP


def run_command(app: Callable[..., Any], arguments: Sequence[str]) -> int:
    """Run one command line of ``app``; an error is told in one clear message. Returns the exit code."""
    debug = "--debug" in arguments
    try:
        app([a for a in arguments if a != "--debug"], prog_name="raft")
    except SystemExit as leave:
        return _left(leave.code, arguments)
    except RaftError as error:
        if debug:
            sys.stderr.write(redacted_text(traceback.format_exc()))
        tell(f"error: {error}")
        return exit_code(error)
    except Exception as error:
        if debug:
            sys.stderr.write(redacted_text(traceback.format_exc()))
        tell(f"error: {type(error).__name__}: {error}\n  traceback: {_keep_traceback()}")
        return FAILED_STEP
    return DONE


def tell(text: str) -> None:
    """Print to standard error: without secrets, and harmless whatever a reward or a model wrote into an error."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text("\n".join(harmless(line, 2000) for line in redacted_text(text).splitlines())))


def _left(code: object, arguments: Sequence[str]) -> int:
    """Typer turns Ctrl-C into ``SystemExit(130)`` and a wrong command line into ``SystemExit(2)``."""
    if code == INTERRUPTED:
        again = "resume with" if "align" in arguments or "repro" in arguments else "again"
        tell(f"interrupted; {again}: {shlex.join(['raft', *arguments])}")
    if code is None:
        return DONE
    return code if isinstance(code, int) else FAILED_STEP


def _keep_traceback() -> str:
    text = redacted_text(traceback.format_exc())
    try:
        with tempfile.NamedTemporaryFile("w", prefix="raft-traceback-", suffix=".txt", delete=False) as file:
            file.write(text)
    except OSError:
        sys.stderr.write(text)
        return "above"
    return file.name
