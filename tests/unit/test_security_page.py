"""``docs/security.md`` promises nothing that no test holds: every row of its tables names tests that are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\|-|\| (what|who) ", line)]
TESTS = sorted({name for name in re.findall(r"`([\w/]+\.py)`", PAGE) if Path(name).name.startswith("test_")})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:40])
def test_every_row_names_a_test(row: str) -> None:
    last = row.rstrip("| ").rpartition("|")[2]
    assert re.search(r"`([\w/]*test_\w+\.py|records/)`", last), row


@pytest.mark.parametrize("name", TESTS)
def test_every_test_that_is_named_is_there(name: str) -> None:
    found = [path for path in (ROOT / "tests").rglob(Path(name).name) if path.as_posix().endswith(f"/{name}")]
    assert found, name
