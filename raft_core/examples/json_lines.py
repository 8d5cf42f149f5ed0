"""Read and write tables of the examples as JSON lines."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raft_core.files.artifacts import write_bytes


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that ``write_lines`` wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One row per line, UTF-8."""
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
