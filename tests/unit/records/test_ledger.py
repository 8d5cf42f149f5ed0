"""The ledger: one chain whoever appends, torn tails, and every kind of tampering named."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

from raft_core.errors import IntegrityError, LedgerMovedError
from raft_core.promotion.ledger import (
    GENESIS,
    Champions,
    Entry,
    FileLedger,
    chain_faults,
    current,
    last_digest,
    withdrawal,
)

NOON = "2026-01-01T12:00:00+00:00"


@pytest.fixture
def ledger(tmp_path: Path) -> FileLedger:
    return FileLedger(tmp_path / "deep" / "ledger.jsonl")


def about(letter: str, **more: object) -> dict[str, object]:
    return {"commit": letter * 64, "policy": letter * 32, "run": f"run-{letter}", "iteration": 3, **more}


def promote(ledger: FileLedger, letter: str, kind: str = "promoted", model: str = "m") -> Entry:
    return ledger.append(kind, model, about(letter), time=NOON)  # type: ignore[arg-type]


def test_a_ledger_that_was_never_written_is_empty(ledger: FileLedger) -> None:
    assert ledger.entries() == []
    assert last_digest([]) == GENESIS


def test_the_digest_can_be_computed_by_hand(ledger: FileLedger) -> None:
    entry = ledger.append("refused", "m", {"b": 1, "a": [1.5, None, "é"]}, time=NOON)
    lines = [
        "{",
        ' "body": {',
        '  "a": [',
        "   1.5,",
        "   null,",
        '   "é"',
        "  ],",
        '  "b": 1',
        " },",
        ' "kind": "refused",',
        ' "model": "m",',
        ' "number": 1,',
        f' "previous": "{"0" * 64}",',
        f' "time": "{NOON}"',
        "}",
        "",
    ]
    assert entry.digest == sha256("\n".join(lines).encode()).hexdigest()
    assert ledger.entries() == [entry]


def test_entries_follow_each_other(ledger: FileLedger) -> None:
    made = [promote(ledger, letter) for letter in "abc"]
    assert [e.number for e in made] == [1, 2, 3]
    assert [e.previous for e in made] == [GENESIS, made[0].digest, made[1].digest]
    assert ledger.entries() == made


def test_a_conditional_append_is_refused_once_another_entry_came(ledger: FileLedger) -> None:
    first = ledger.append("promoted", "m", about("a"), time=NOON, after=GENESIS)
    ledger.append("promoted", "m", about("b"), time=NOON, after=first.digest)
    for seen in (GENESIS, first.digest):
        with pytest.raises(LedgerMovedError, match="ledger"):
            ledger.append("promoted", "m", about("c"), time=NOON, after=seen)
    assert len(ledger.entries()) == 2


@pytest.mark.parametrize(("kind", "body"), [("crowned", {}), ("promoted", {"x": float("nan")})])
def test_what_cannot_be_read_again_is_not_written(ledger: FileLedger, kind: str, body: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"kind of entry|not JSON compliant"):
        ledger.append(kind, "m", body, time=NOON)  # type: ignore[arg-type]
    assert ledger.entries() == []


def test_a_body_that_cannot_be_encoded_leaves_the_file_as_it_was(ledger: FileLedger) -> None:
    promote(ledger, "a")
    with ledger.path.open("ab") as file:
        file.write(b'{"torn')
    before = ledger.path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        ledger.append("refused", "m", {"reason": "\ud800"}, time=NOON)
    assert ledger.path.read_bytes() == before


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_what_a_kill_left_of_a_line_is_no_entry(ledger: FileLedger, cut: int) -> None:
    first = promote(ledger, "a")
    whole = ledger.path.read_bytes()
    promote(ledger, "b")
    ledger.path.write_bytes(ledger.path.read_bytes()[:-cut])
    expected = 2 if cut == 1 else 1  # all but the line break: the entry is whole
    assert len(ledger.entries()) == expected
    third = promote(ledger, "c")
    assert third.number == expected + 1
    assert ledger.entries()[0] == first
    assert ledger.path.read_bytes().startswith(whole)
    assert ledger.path.read_bytes().count(b"\n") == expected + 1


def rewritten(change: Callable[[list[dict[str, object]]], object], ledger: FileLedger) -> None:
    rows = [json.loads(line) for line in ledger.path.read_bytes().splitlines()]
    change(rows)
    ledger.path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda rows: rows[1].update(time="2020-01-01T00:00:00+00:00"), "entry 2 was changed"),
        (lambda rows: rows[0]["body"].update(commit="f" * 64), "entry 1 was changed"),
        (lambda rows: rows.pop(1), r"entry 3\b.*\b2\b"),
        (lambda rows: rows.pop(0), r"entry 2\b.*\b1\b"),
        (lambda rows: rows.insert(1, rows[0]), r"entry 1\b.*\b2\b"),
        (lambda rows: rows.reverse(), r"entry 3\b.*\b1\b"),
        (lambda rows: rows[1].update(extra=1), "line 2 of "),
    ],
)
def test_tampering_is_named(
    ledger: FileLedger, change: Callable[[list[dict[str, object]]], object], fault: str
) -> None:
    for letter in "abc":
        promote(ledger, letter)
    rewritten(change, ledger)
    with pytest.raises(IntegrityError, match=fault):
        ledger.entries()
    with pytest.raises(IntegrityError, match=fault):
        promote(ledger, "d")


def test_a_forged_seal_breaks_the_next_link(ledger: FileLedger) -> None:
    entries = [promote(ledger, letter) for letter in "ab"]
    forged = {**asdict(entries[0]), "model": "other"}
    first = Entry(**forged)
    resealed = Entry(**{**forged, "digest": first.sealed})
    (fault,) = chain_faults([resealed, entries[1]])
    assert fault.startswith("entry 2 ")
    assert entries[0].digest[:12] in fault
    assert resealed.digest[:12] in fault


APPENDER = """
import sys
from pathlib import Path
from raft_core.promotion.ledger import FileLedger
for i in range(10):
    FileLedger(Path(sys.argv[1])).append("refused", sys.argv[2], {"i": i}, time="t")
"""


def test_ten_processes_append_at_once(ledger: FileLedger) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", APPENDER, str(ledger.path)]
    processes = [subprocess.Popen([*command, f"m{n}"], cwd=root) for n in range(10)]
    assert [process.wait(60) for process in processes] == [0] * 10
    entries = ledger.entries()
    assert [e.number for e in entries] == list(range(1, 101))
    assert chain_faults(entries) == []
    for n in range(10):
        assert [e.body["i"] for e in entries if e.model == f"m{n}"] == list(range(10))


# -- what the entries mean -------------------------------------------------------------------------


def standing(ledger: FileLedger, model: str = "m") -> str:
    now: Champions = current(ledger.entries(), model)
    return "".join(holder.commit[0] if holder else "-" for holder in (now.champion, now.previous))


@pytest.mark.parametrize(
    ("acts", "expected"),
    [
        ("", "--"),
        ("+a", "a-"),
        ("+a +b", "ba"),
        ("+a +b +c", "cb"),
        ("+a +a", "a-"),
        ("+a +b <a", "a-"),
        ("+a +b +c <b", "ba"),
        ("+a +b +c <b <a", "a-"),
        ("+a +b +c <a", "a-"),
        ("+a +b <x", "xb"),
        ("+a +b +a", "ab"),
        ("+a +b !b", "-a"),
        ("+a +b !a", "b-"),
        ("+a +b !b <a", "a-"),
        ("+a +b !b +c", "ca"),
        ("+a ?b", "a-"),
    ],
)
def test_champion_and_previous(ledger: FileLedger, acts: str, expected: str) -> None:
    kinds = {"+": "promoted", "<": "rolled_back", "!": "withdrawn", "?": "refused"}
    for act in acts.split():
        promote(ledger, act[1], kinds[act[0]])
    assert standing(ledger) == expected


def test_models_do_not_touch_each_other_but_a_withdrawal_is_for_all(ledger: FileLedger) -> None:
    promote(ledger, "a")
    promote(ledger, "b", model="n")
    assert (standing(ledger), standing(ledger, "n")) == ("a-", "b-")
    promote(ledger, "a", model="n")
    ledger.append("withdrawn", "", {"policy": "a" * 32}, time=NOON)
    assert (standing(ledger), standing(ledger, "n")) == ("--", "-b")


def test_a_withdrawal_is_found_by_commit_or_weights(ledger: FileLedger) -> None:
    entry = ledger.append("withdrawn", "m", {"commit": "a" * 64, "policy": "a" * 32}, time=NOON)
    entries = ledger.entries()
    assert withdrawal(entries, "a" * 64, "z" * 32) == entry
    assert withdrawal(entries, "z" * 64, "a" * 32) == entry
    assert withdrawal(entries, "z" * 64, "z" * 32) is None
