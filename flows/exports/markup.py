"""Text from models and files as HTML: shown, never run.

Every value that a template prints is escaped and made harmless, except ``Markup``, which our own code built by
escaping.
"""

import base64
import hashlib
import re
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from flows.text import harmless

MAX_CHARS = 4000
"""Longer model texts are cut; the table in the run directory holds all of it."""
_VISIBLE = re.compile(r"(\\x[0-9a-f]{2,6}|⇥)")


def environment() -> Environment:
    """Jinja environment for this package: escapes values, makes them harmless, refuses unknown names."""
    return Environment(
        loader=PackageLoader("flows.exports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def read_text(name: str) -> str:
    """Text of a file in this package."""
    return resources.files("flows.exports").joinpath(name).read_text(encoding="utf-8")


def content_policy(css: str) -> str:
    """Content-Security-Policy of a page whose only style sheet is ``css``: no script, no network, no form."""
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def verbatim(text: str) -> Markup:
    """Model text with its line breaks, isolated from the text around it; invisible characters become visible."""
    cut = text[:MAX_CHARS]
    lines = [_marked(harmless(line)) for line in cut.split("\n")]
    rest = (
        Markup(' <i class="ctl">{} more characters</i>').format(len(text) - MAX_CHARS) if len(text) > MAX_CHARS else ""
    )
    return Markup('<bdi class="verbatim">{}{}</bdi>').format(Markup("\n").join(lines), rest)


def preformatted(text: str) -> Markup:
    """Several lines of a file, each made harmless."""
    return Markup("\n").join(escape(harmless(line)) for line in text.rstrip("\n").split("\n"))


def _marked(line: str) -> Markup:
    """``line`` with the escapes of ``harmless`` highlighted (and text that happens to look like one)."""
    pieces = _VISIBLE.split(line)
    return Markup("").join(
        Markup('<i class="ctl">{}</i>').format(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces)
    )


def _shown(value: Any) -> Any:
    return value if isinstance(value, Markup) else harmless(str(value))
