"""Read foreign JSON with limits on file size, nesting and size of numbers.

Every fault except an absent or unreadable file is a ValueError, so ``except (OSError, ValueError)`` catches them all.
"""

import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 24
"""Limit for a document or a line of a log; the largest real ones are a thousandth of it."""
MAX_LOG_BYTES = 1 << 28
"""Limit for ``finetune.json``, which has an entry for every training step."""
MAX_DEPTH = 100
MAX_BITS = 64


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. Raises ValueError for a pipe, device or socket, which could block for ever."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"not a regular file: {path}")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file. Raises ValueError if there are more than ``most``."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is longer than {most:,} bytes")
    return data


def read_lines(path: Path, most: int = MAX_BYTES) -> Iterator[bytes]:
    """The lines of a regular file with their line ends; nothing if the file is absent.

    Raises ValueError for a line of more than ``most`` bytes.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    with file:
        while line := file.readline(most + 1):
            if len(line) > most:
                raise ValueError(f"{path} has a line of more than {most:,} bytes")
            yield line


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """The JSON document in ``path``, of at most ``most`` bytes."""
    return parse_json(read_bounded(path, most))


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The JSON object in ``path``, of at most ``most`` bytes."""
    return parse_object(read_bounded(path, most))


def parse_json(data: bytes | str, *, any_number: bool = False) -> Any:
    """``data`` as dicts, lists and scalars. ``any_number``: allow integers over 64 bits (up to 4,300 digits)."""
    try:
        value = json.loads(data, parse_int=None if any_number else _integer)
    except RecursionError:
        raise ValueError(f"JSON nested more than {MAX_DEPTH} levels deep") from None
    _check_depth(value)
    return value


def parse_object(data: bytes | str) -> dict[str, Any]:
    """``data`` as a JSON object."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or (number := int(digits)).bit_length() > MAX_BITS:
        raise ValueError(f"a number of more than {MAX_BITS} bits: {digits[:12]}…")
    return number


def _check_depth(value: Any) -> None:
    """Check level by level, since recursion would fail on deep nesting."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return
    raise ValueError(f"JSON nested more than {MAX_DEPTH} levels deep")
