"""Nothing of ours listens beyond this machine: no address of all interfaces in the code or in what it prints."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERYWHERE = re.compile(r"0\.0\.0\.0|\"::\"|'::'|INADDR_ANY|\.bind\(\(\s*(?:\"\"|'')")
SOURCES = [path for floor in ("flows", "tasks", "raft_core") for path in sorted((ROOT / floor).rglob("*.py"))]


def test_no_code_listens_on_every_interface() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in SOURCES if EVERYWHERE.search(path.read_text())]
    assert found == []


def test_servers_that_commands_print_keep_their_loopback_default() -> None:
    told = [
        line for path in SOURCES for line in path.read_text().splitlines() if re.search(r"mlflow (ui|server)", line)
    ]
    assert told
    assert not any("--host" in line for line in told)


@pytest.mark.parametrize("line", ['s.bind(("", 80))', 'host = "0.0.0.0"', 'uvicorn.run(app, host="::")'])
def test_the_search_finds_them(line: str) -> None:
    assert EVERYWHERE.search(line)


@pytest.mark.parametrize("line", ['s.bind(("127.0.0.1", 0))', "signature.bind([], [])"])
def test_the_search_leaves_alone(line: str) -> None:
    assert not EVERYWHERE.search(line)
