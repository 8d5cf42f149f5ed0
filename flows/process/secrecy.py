"""Whatever a library says by itself leaves this process without secrets: log records, warnings, tracebacks, prints.

Our own messages are clean already (``raft_core.redaction``). But MLflow, SQLAlchemy, DVC and the clients of stores put
addresses into their errors, and write to standard error and to handlers that we do not own. So standard error is
wrapped, and every log record is made clean before any handler sees it.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from raft_core.redaction import REDACTED, is_secret_name, redacted_text

SHORTEST = 6
"""A secret of fewer characters is hidden by its form alone: it may well be a word of an ordinary sentence."""

Hide = Callable[[str], str]


def guard(environment: Mapping[str, str]) -> None:
    """From now on; calling it again changes nothing. The secrets in ``environment`` are hidden in any form."""
    if isinstance(sys.stderr, _Guarded):
        return
    hide = hiding(secrets_in(environment))
    sys.stderr = _Guarded(sys.stderr, hide)
    logging.setLogRecordFactory(_records(hide, logging.getLogRecordFactory()))


def without_secrets(text: str) -> str:
    """``text`` as standard error would show it: for files and records that keep what a library said."""
    return sys.stderr.hide(text) if isinstance(sys.stderr, _Guarded) else redacted_text(text)


def secrets_in(environment: Mapping[str, str]) -> set[str]:
    """Passwords and users' tokens of addresses, as they are written and as they are meant; values of telling names.

    Not the name of a file or folder that is there: PWD, OLDPWD, or where a secret lies.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if is_secret_name(name) and not (os.path.isabs(value) and os.path.exists(value)):
            found.add(value)
        elif "://" in value and "@" in value:
            found |= _of_address(value)
    return {secret for secret in found if len(secret) >= SHORTEST}


def hiding(secrets: Iterable[str]) -> Hide:
    """What takes ``secrets``, and all that ``redacted_text`` knows by its form, out of a text."""
    longest_first = sorted(secrets, key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, REDACTED)
        return redacted_text(text)

    return hide


def _of_address(address: str) -> set[str]:
    """The password (without one: the user, which is a token then) of an address."""
    try:
        parts = urlsplit(address)
        told = parts.password or parts.username or ""
    except ValueError:
        told = ""
    rest = address.partition("://")[2].rpartition("@")[0]
    return {told, unquote(told), rest.partition(":")[2], unquote(rest.partition(":")[2])}


class _Guarded:
    """A text stream that writes nothing secret; everything else is the stream's own."""

    def __init__(self, stream: Any, hide: Hide) -> None:
        self._stream, self.hide = stream, hide

    def write(self, text: str) -> int:
        """Write ``text`` without secrets."""
        self._stream.write(self.hide(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write ``lines`` without secrets."""
        self.write("".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _records(hide: Hide, make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """A factory of log records whose message and traceback are clean, whichever handler formats them."""

    def record(*arguments: Any, **named: Any) -> logging.LogRecord:
        made = make(*arguments, **named)
        try:
            told = made.getMessage()
        except (TypeError, ValueError, KeyError):  # wrong arguments: logging says so itself
            return made
        if (hidden := hide(told)) != told:
            made.msg, made.args = hidden, ()
        if made.exc_info and made.exc_info[1] is not None:
            made.exc_text = hide("".join(traceback.format_exception(*made.exc_info)).rstrip("\n"))
        return made

    return record
