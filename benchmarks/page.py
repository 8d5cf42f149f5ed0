"""Markdown: tables, and a page whose sections are replaced one by one."""

import re
from collections.abc import Sequence
from pathlib import Path

from raft_core.files.artifacts import write_bytes

Row = Sequence[str]


def table(head: Row, rows: Sequence[Row]) -> str:
    """A table whose first column is text, the others numbers."""
    align = ["---", *["--:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, align, *rows))


def replace_section(page: Path, name: str, body: str) -> None:
    """Put ``body`` between the markers of section ``name``. Raises ValueError where there are none."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = page.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{page} has no section {begin} … {end}")
    write_bytes(page, pattern.sub(lambda _: f"{begin}\n{body.strip()}\n{end}", text, count=1).encode())
