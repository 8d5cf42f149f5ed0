"""Remove secrets from everything that libraries print or log: log records, warnings, tracebacks.

Our own messages contain none (``raft_core.redaction``). But MLflow, SQLAlchemy, DVC and clients of stores put addresses
into their errors, and write to standard error and to log handlers of their own. So standard error is wrapped, and every
log record is cleaned before any handler gets it.
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
"""Shorter secrets are hidden only where their form gives them away: they may be ordinary words."""

Hide = Callable[[str], str]


def guard(environment: Mapping[str, str]) -> None:
    """Hide the secrets in ``environment`` from now on. Calling it again changes nothing."""
    if isinstance(sys.stderr, _Guarded):
        return
    hide = hiding(secrets_in(environment))
    sys.stderr = _Guarded(sys.stderr, hide)
    logging.setLogRecordFactory(_records(hide, logging.getLogRecordFactory()))


def without_secrets(text: str) -> str:
    """``text`` as standard error would show it, for files and records that quote libraries."""
    return sys.stderr.hide(text) if isinstance(sys.stderr, _Guarded) else redacted_text(text)


def secrets_in(environment: Mapping[str, str]) -> set[str]:
    """Passwords and tokens in addresses, encoded and decoded, and values of variables with names like PASSWORD.

    Paths of existing files are not secrets: PWD, OLDPWD, or a file that holds a secret.
    """
    found: set[str] = set()
    for name, value in environment.items():
        if is_secret_name(name) and not (os.path.isabs(value) and os.path.exists(value)):
            found.add(value)
        elif "://" in value and "@" in value:
            found |= _of_address(value)
    return {secret for secret in found if len(secret) >= SHORTEST}


def hiding(secrets: Iterable[str]) -> Hide:
    """A function that removes ``secrets``, and everything that ``redacted_text`` recognises, from a text."""
    longest_first = sorted(secrets, key=len, reverse=True)

    def hide(text: str) -> str:
        for secret in longest_first:
            text = text.replace(secret, REDACTED)
        return redacted_text(text)

    return hide


def _of_address(address: str) -> set[str]:
    """The password of an address, or its user if there is none: it is a token then."""
    try:
        parts = urlsplit(address)
        secret = parts.password or parts.username or ""
    except ValueError:
        secret = ""
    rest = address.partition("://")[2].rpartition("@")[0]
    return {secret, unquote(secret), rest.partition(":")[2], unquote(rest.partition(":")[2])}


class _Guarded:
    """A text stream that removes secrets from what is written to it."""

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
    """A factory of log records whose message and traceback contain no secrets, for any handler."""

    def record(*arguments: Any, **named: Any) -> logging.LogRecord:
        made = make(*arguments, **named)
        try:
            message = made.getMessage()
        except (TypeError, ValueError, KeyError):  # wrong arguments: logging reports them itself
            return made
        if (hidden := hide(message)) != message:
            made.msg, made.args = hidden, ()
        if made.exc_info and made.exc_info[1] is not None:
            made.exc_text = hide("".join(traceback.format_exception(*made.exc_info)).rstrip("\n"))
        return made

    return record
