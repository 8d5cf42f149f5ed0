"""One hostile run among others: every list goes on with the rest, and nothing hangs or ends in a traceback."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raft_core.records.run import Run, record_event

Raft = Callable[..., tuple[int, str, str]]
Spoil = Callable[[Run], None]
DEEP = b"[" * 200_000 + b"]" * 200_000
STAMP = '"time": "2026-01-01T00:00:00+00:00"'
LINES = [
    b'{"kind": "step"}',
    DEEP,
    b"\xff\xfe\x00",
    b"null",
    b"[]",
    b"7",
    b'{"kind": 7, "time": 8}',
    b'{"kind": []}',
    f'{{"kind": "step", {STAMP}, "iteration": "x", "step": "a"}}'.encode(),
    f'{{"kind": "step", {STAMP}, "iteration": 1, "step": "a", "seconds": "long"}}'.encode(),
    f'{{"kind": "step", {STAMP}, "iteration": {10**30}, "step": "a"}}'.encode(),
    f'{{"kind": "finished", {STAMP}, "best": "x"}}'.encode(),
    b'{"kind": "finished", "best": 0, "time": "yesterday"}',
    f'{{"kind": "projected", {STAMP}}}'.encode(),
    f'{{"kind": "pushed", {STAMP}, "remote": []}}'.encode(),
]


def replaced(name: str, data: bytes | None) -> Spoil:
    """Put ``data`` in the place of a file of the run; None: a pipe that nobody writes to."""

    def spoil(run: Run) -> None:
        path = run.path / name
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            os.mkfifo(path)
        else:
            path.write_bytes(data)

    return spoil


def lines(run: Run) -> None:
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b"\n".join(LINES) + b"\n")


BROKEN: dict[str, Spoil] = {
    f"{kind} {name}": replaced(f"iterations/000/{name}", data)
    for name in ("commit.json", "report.json")
    for kind, data in {"deep": DEEP, "pipe": None, "list": b"[]", "huge": b'{"format": 1' + b"0" * 30 + b"}"}.items()
} | {
    "events are a pipe": replaced("events.jsonl", None),
    "deep configuration": replaced("config.yaml", b"a: " + b"[" * 5000 + b"]" * 5000),
    "configuration in no encoding": replaced("config.yaml", b"\xff\xfe\xfa"),
}


@pytest.fixture(autouse=True)
def within_two_minutes() -> Iterator[None]:
    """What hangs, whatever it waits for, is interrupted."""

    def late(*_: object) -> None:
        raise TimeoutError("it did not end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", BROKEN)
def test_lists_go_on_with_the_other_runs_and_name_the_bad_one(
    name: str, write_run: Callable[..., Run], raft: Raft, raft_json: Callable[..., Any]
) -> None:
    write_run("whole")
    BROKEN[name](write_run("bad"))
    listed = {entry["name"]: entry["status"] for entry in raft_json("runs")}
    assert listed == {"bad": "broken", "whole": "completed"}
    code, out, err = raft("lineage", "verify", "--json")
    verified = json.loads(out)
    assert (code, "Traceback" in err) == (4, False)
    assert "whole" in verified["runs"]
    if name.endswith(".json"):
        kinds = {
            p["kind"] for p in verified["runs"]["bad"]["problems"] if p["path"].endswith(f"000/{name.split()[-1]}")
        }
        assert kinds & {"malformed", "changed", "unreadable"}
    elif "configuration" in name:
        assert [p["path"].endswith("runs/bad/config.yaml") for p in verified["problems"]] == [True]
    assert raft("lineage", "find", "--text", "nowhere", "--json")[0] == 0
    assert raft("show", "whole")[0] == 0
    code, _, err = raft("show", "bad")
    assert (code in (2, 4), "Traceback" in err) == (True, False)


def test_lines_that_nobody_can_use_cost_only_themselves(
    write_run: Callable[..., Run], raft_json: Callable[..., Any]
) -> None:
    write_run("whole")
    bad = write_run("bad")
    lines(bad)
    record_event(bad, "warning", message="after it")
    listed = {entry["name"]: (entry["status"], entry["best"]) for entry in raft_json("runs")}
    assert listed == {"bad": ("completed", 1), "whole": ("completed", 1)}
    assert raft_json("lineage", "find", "--text", "nowhere") is not None


def test_a_tombstone_that_nests_without_end_is_a_fault_of_its_run(write_run: Callable[..., Run], raft: Raft) -> None:
    write_run("whole")
    replaced("iterations/000/erased.json", DEEP)(write_run("bad"))
    code, out, _ = raft("lineage", "verify", "--json")
    assert code == 4
    assert [p["kind"] for p in json.loads(out)["runs"]["bad"]["problems"] if p["path"].endswith("erased.json")] == [
        "malformed"
    ]


@pytest.mark.parametrize("data", [None, DEEP, b'{"number": 1}\n', b"[]\n", b"\xff\n"])
def test_a_ledger_that_is_none_is_one_clear_error(
    data: bytes | None, write_run: Callable[..., Run], raft: Raft, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "other" / "ledger.jsonl"
    ledger.parent.mkdir()
    if data is None:
        os.mkfifo(ledger)
    else:
        ledger.write_bytes(data + b"\n")
    monkeypatch.setenv("RAFT_LEDGER", str(ledger))
    code, _, err = raft("ledger", "verify")
    assert (code, "Traceback" in err, str(ledger) in err) == (4, False, True)
    write_run("whole")
    code, out, _ = raft("lineage", "verify", "--json")
    assert (code, "ledger" in out) == (4, True)


def test_exclusions_that_nest_without_end_are_one_clear_error(
    write_run: Callable[..., Run], raft: Raft, tmp_path: Path
) -> None:
    write_run("whole")
    (tmp_path / "exclusions.jsonl").write_bytes(DEEP + b"\n")
    code, _, err = raft("lineage", "find", "--text", "nowhere")
    assert (code, "exclusions.jsonl" in err and "line 1 " in err) == (4, True)
