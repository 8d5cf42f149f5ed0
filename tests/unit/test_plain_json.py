"""JSON of others: what never ends, nests without end, or is no file is one clear error."""

import json
import os
from pathlib import Path

import pytest

from raft_core.files.plain_json import (
    MAX_DEPTH,
    open_regular,
    parse_json,
    parse_object,
    read_bounded,
    read_json,
    read_lines,
)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_what_is_plain_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, -2.5, None, True, "é"], "seed": 2**63 - 1}))
    assert read_json(path) == {"a": [1, -2.5, None, True, "é"], "seed": 2**63 - 1}
    assert parse_json(nested(MAX_DEPTH)) is not None


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 200_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="more than 100 levels"):
        parse_json(nested(depth))
    with pytest.raises(ValueError, match="more than 100 levels"):
        parse_json('{"a":' * depth + "1" + "}" * depth)


@pytest.mark.parametrize("digits", ["1" + "0" * 30, "9" * 5000, "-" + "9" * 21, str(2**64)])
def test_huge_numbers_are_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="more than 64 bits"):
        parse_json(f'{{"hidden_size": {digits}}}')


@pytest.mark.parametrize("data", [b"\xff\xfe\xfa", b"", b"{", b"\x00", b'{"a": 1}{'])
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(data)


def test_another_value_than_an_object_is_named() -> None:
    with pytest.raises(ValueError, match=r"object.*list"):
        parse_object("[]")


def test_what_may_never_end_is_not_opened(tmp_path: Path) -> None:
    """A test that hung here would say so: no writer ever comes."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "link"
    link.symlink_to(pipe)
    for path in (pipe, link, Path("/dev/zero"), Path("/dev/tty0")):
        if path.exists():
            with pytest.raises((ValueError, PermissionError, OSError)):
                open_regular(path)
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(pipe)
    with pytest.raises(ValueError, match="not a regular file"):
        list(read_lines(link))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a regular file"):
        read_json(tmp_path)


def test_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"x" * 100)
    assert read_bounded(path, 100) == b"x" * 100
    with pytest.raises(ValueError, match="longer than 99 bytes"):
        read_bounded(path, 99)
    with pytest.raises(ValueError, match="a line of more than 99 bytes"):
        list(read_lines(path, 99))
    path.write_bytes(b"ab\ncd")
    assert list(read_lines(path)) == [b"ab\n", b"cd"]
    assert list(read_lines(tmp_path / "absent")) == []
