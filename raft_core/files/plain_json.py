"""JSON of others without its traps: no endless file, no endless nesting, no numbers of a thousand digits.

Every fault but an absent file is a ValueError, so that one clause catches them: ``except (OSError, ValueError)``.
"""

import json
import os
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 24
"""Of a document, and of a line of a log: the largest real ones are a thousandth of it."""
MAX_LOG_BYTES = 1 << 28
"""Of ``finetune.json``, which has an entry for every step of a training."""
MAX_DEPTH = 100
MAX_BITS = 64


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read it. Raises ValueError for a pipe, a device or a socket, which may never end or answer."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"not a regular file: {path}")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, most: int = MAX_BYTES) -> bytes:
    """All bytes of a regular file. Raises ValueError where there are more than ``most``."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path} is longer than {most:,} bytes")
    return data


def read_lines(path: Path, most: int = MAX_BYTES) -> Iterator[bytes]:
    """The lines of a regular file, with their ends; none of a file that is absent.

    Raises ValueError at a line of more than ``most`` bytes.
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
    """The document in ``path``, of ``most`` bytes."""
    return parse_json(read_bounded(path, most))


def read_object(path: Path, most: int = MAX_BYTES) -> dict[str, Any]:
    """The document in ``path``, which must be an object, of ``most`` bytes."""
    return parse_object(read_bounded(path, most))


def parse_json(data: bytes | str, *, any_number: bool = False) -> Any:
    """``data`` as dicts, lists and scalars. ``any_number``: integers may have more than 64 bits, and 4,300 digits."""
    try:
        value = json.loads(data, parse_int=None if any_number else _integer)
    except RecursionError:
        raise ValueError(f"JSON of more than {MAX_DEPTH} levels") from None
    _check_depth(value)
    return value


def parse_object(data: bytes | str) -> dict[str, Any]:
    """``data`` as an object."""
    value = parse_json(data)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON object expected, not {type(value).__name__}")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20 or (number := int(digits)).bit_length() > MAX_BITS:
        raise ValueError(f"a number of more than {MAX_BITS} bits: {digits[:12]}…")
    return number


def _check_depth(value: Any) -> None:
    """Level by level, since what is nested too deeply cannot be followed by calls."""
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
    raise ValueError(f"JSON of more than {MAX_DEPTH} levels")
