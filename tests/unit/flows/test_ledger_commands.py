"""``raft ledger``: the table keeps every name whole, and the document is what is stored."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from flows.cli import exits
from raft_core.promotion.ledger import FileLedger

Raft = Callable[..., tuple[int, str, str]]
RUN = "reviews-a2827c0ffee0-a-night-in-november"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileLedger:
    monkeypatch.setenv("RAFT_LEDGER", str(tmp_path / "ledger.jsonl"))
    made = FileLedger(tmp_path / "ledger.jsonl")
    for model, iteration in (("raft-reviews", 12), ("raft-other", 3)):
        body = {"commit": "c" * 64, "policy": "p", "run": RUN, "iteration": iteration, "by": "ann", "reason": "old"}
        made.append("withdrawn", model, body, time="2026-01-01T00:00:00+00:00")
    return made


def test_the_document_is_every_entry_as_it_is_stored(
    ledger: FileLedger, raft: Raft, raft_json: Callable[..., Any]
) -> None:
    stored = [asdict(entry) for entry in ledger.entries()]
    assert raft_json("ledger") == stored == raft_json("ledger", "show")
    assert raft_json("ledger", "show", "--model", "raft-other") == stored[1:]
    assert json.loads(raft("ledger", "verify", "--json")[1])["entries"] == 2
    assert raft("ledger", "--json", "verify")[0] == exits.USERS_MISTAKE


def test_a_long_policy_is_folded_not_cut(ledger: FileLedger, raft: Raft, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("80", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        code, out, _ = raft("ledger")
        lines = out.splitlines()
        start, end = lines[0].index("policy"), lines[0].index("commit")
        policies = "".join(line[start:end].strip() for line in lines[1:])
        assert (code, policies) == (exits.DONE, f"{RUN}@12{RUN}@3")
