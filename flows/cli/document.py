"""``--json``: one document on standard output and nothing else, whatever a reward, a library or a child process prints.

While the command runs, file descriptor 1 is a copy of standard error, so everything else that is printed goes there.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TextIO


@dataclass(slots=True)
class _Output:
    """Stream for the document; mutable, to remember that the document was written."""

    stream: TextIO
    written: bool = False


_output: ContextVar[_Output | None] = ContextVar("output", default=None)


@contextmanager
def one_document() -> Iterator[None]:
    """While the block runs, only ``print_json`` writes to standard output."""
    with ExitStack() as after:
        output = _Output(_kept_stream(after))
        token = _output.set(output)
        after.callback(_output.reset, token)
        yield


def print_json(document: Any) -> None:
    """Print ``document`` as JSON in ASCII, so that no character of a model's output can control the terminal."""
    output = _output.get()
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    if output:
        output.written = True  # also if the reader has closed the pipe (| head): nothing may follow
    stream = output.stream if output else sys.stdout
    stream.write(text)
    stream.flush()


def print_failure(failure: dict[str, Any]) -> None:
    """Print the document of a command that failed, unless it has printed one or --json was not given."""
    output = _output.get()
    if output and not output.written:
        print_json(failure)


def _kept_stream(after: ExitStack) -> TextIO:
    """The original standard output; ``after`` restores it."""
    ours = sys.stdout
    try:
        ours.flush()
        on_descriptor = ours.fileno() == 1
    except (OSError, ValueError, AttributeError):  # closed, or replaced by another object
        on_descriptor = False
    if not on_descriptor:
        after.enter_context(redirect_stdout(sys.stderr))
        return ours
    kept = os.dup(1)
    after.callback(os.close, kept)
    try:
        os.dup2(2, 1)
    except OSError:  # no standard error
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
    after.callback(_restore, kept, ours)
    after.enter_context(redirect_stdout(sys.stderr))  # whose writer removes secrets
    stream = open(os.dup(kept), "w", encoding="utf-8")  # noqa: SIM115 - closed below
    after.callback(_close, stream)
    return stream


def _close(stream: TextIO) -> None:
    with suppress(BrokenPipeError):
        stream.close()


def _restore(kept: int, ours: TextIO) -> None:
    with suppress(OSError, ValueError):
        ours.flush()
    os.dup2(kept, 1)
